"""What a run found, in the form that every output is made from."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from stepwell.findings import Finding
from stepwell.lint.examined import Hit


@dataclass
class Report:
    """What a run found.

    Attributes:
        hits: the findings that count, file after file, by line.
        troubles: what could not be read or went wrong, a line each.
        files: how many files were looked at.
        made: how many fixes of each code were made.
        unsafe: whether fixes that may change what the program means are wanted.
    """

    hits: list[Hit] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    files: int = 0
    made: Counter[str] = field(default_factory=Counter)
    unsafe: bool = False

    @property
    def findings(self) -> list[Finding]:
        return [hit.finding for hit in self.hits]

    def is_fixable(self, finding: Finding) -> bool:
        """Whether --fix as it is set would try it."""
        return finding.fix is not None and (finding.fix.safe or self.unsafe)

    def summary(self) -> str:
        """One line: how many findings, and how many of them can be fixed."""
        said = []
        fixed = self.made.total()
        if fixed:
            said.append(f"{_count(fixed, 'finding')} fixed")
        if not self.hits:
            said.append(f"no finding in {_count(self.files, 'file')}")
            return "; ".join(said)
        where = len({hit.finding.place.file for hit in self.hits})  # type: ignore[union-attr]  # all are in sources
        left = " left" if fixed else ""
        said.append(f"{_count(len(self.hits), 'finding')}{left} in {where} of {_count(self.files, 'file')}")
        now = sum(self.is_fixable(one) for one in self.findings)
        later = sum(one.fix is not None for one in self.findings) - now
        if now:
            said.append(f"{now} fixable with --fix{' --unsafe-fixes' if self.unsafe else ''}")
        if later:
            said.append(f"{later} {'more ' if now else ''}fixable with --fix --unsafe-fixes")
        return "; ".join(said)

    def statistics(self) -> list[tuple[int, str, str, bool]]:
        """(how often, code, name, whether all can be fixed) for each code, the most frequent first."""
        found: dict[str, list[Finding]] = {}
        for one in self.findings:
            found.setdefault(one.code, []).append(one)
        rows = [
            (len(all_of), code, all_of[0].check.name, all(map(self.is_fixable, all_of)))
            for code, all_of in found.items()
        ]
        return sorted(rows, key=lambda row: (-row[0], row[1]))


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
