"""Every mistake planted into every script, and what the checks say about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import ModuleType

from lint.planters import VARIANTS
from lint.scripts import Script
from lint.variants import Variant, added

LEAST_PLACES = 5
LEAST_RECALL = 0.85


@dataclass(frozen=True)
class Case:
    """One mistake in one script: whether it is named, and what else became loud."""

    code: str
    variant: str
    script: str
    found: bool
    others: tuple[str, ...]
    source: str = field(repr=False, default="")
    allowed: tuple[int, ...] = ()


def certain() -> dict[str, ModuleType]:
    from stepwell.lint.checks import load

    return {module.CHECK.code: module for module in load() if module.CHECK.certainty == "certain"}


def findings(source: str, file: str, modules: Iterable[ModuleType]) -> list[tuple[str, int]]:
    """The code and the line of every finding."""
    from stepwell.lint.analysis import read

    script = read(source, file)
    return [(finding.check.code, finding.place.line) for module in modules for finding in module.find(script)]


def cases(scripts: dict[str, str], codes: Iterable[str] | None = None) -> list[Case]:
    """All mistakes of the given checks (default: the certain ones that exist) in all scripts."""
    checks = certain()
    wanted = set(codes) if codes else set(checks)
    return [
        case
        for code in sorted(wanted & set(VARIANTS) & set(checks))
        for variant in VARIANTS[code]
        for name, source in scripts.items()
        if (case := _case(variant, name, source, list(checks.values()))) is not None
    ]


def _case(variant: Variant, name: str, source: str, modules: list[ModuleType]) -> Case | None:
    planted = variant.plant(source)
    if planted is None:
        return None
    right, wrong = planted
    names = {variant.code, *wrong.named_by}
    if "without-parentheses" in variant.name:
        names.add("SW116")  # which says so itself
    after = findings(wrong.source, name, modules)
    before = _counted(right, findings(right, name, modules))
    found = any(code in names and line in wrong.lines for code, line in after)
    rest = [
        (code, line) for code, line in after if not (code in names and line in wrong.lines) and code not in wrong.also
    ]
    others = _counted(wrong.source, rest) - before
    lines = wrong.source.splitlines()
    loud = tuple(
        f"{code} line {next(line for other, line in rest if other == code and lines[line - 1].strip() == text)}"
        for code, text in others
    )
    return Case(variant.code, variant.name, name, found, loud, wrong.source, tuple(sorted(wrong.lines)))


def _counted(source: str, found: list[tuple[str, int]]) -> Counter[tuple[str, str]]:
    """Findings by the text of their line: the numbers of lines change when something is planted."""
    lines = source.splitlines()
    return Counter((code, lines[line - 1].strip()) for code, line in found)


def loud_additions(scripts: dict[str, str], codes: Iterable[str] | None = None) -> list[str]:
    """What the certain checks say about the correct additions: nothing of it is right."""
    checks = certain()
    firsts = {variant.first for code in set(codes or checks) & set(VARIANTS) for variant in VARIANTS[code]}
    said: set[str] = set()
    for name, source in scripts.items():
        plain = _counted(source, findings(source, name, checks.values()))
        for first in firsts:
            script = added(first, source)
            if script is None or script.source == source:
                continue
            found = _counted(script.source, findings(script.source, name, checks.values())) - plain
            words = " and ".join(add.__qualname__.split(".")[0] for add in first)
            said.update(f"{name} with {words}: {code} at `{text}`" for code, text in found)
    return sorted(said)


def already_loud(scripts: dict[str, str]) -> list[str]:
    """What the certain checks say about the scripts as they are."""
    modules = list(certain().values())
    return [
        f"{name}: {code} line {line}"
        for name, source in scripts.items()
        for code, line in findings(source, name, modules)
    ]


@dataclass(frozen=True)
class Row:
    code: str
    name: str
    scripts: int
    places: int
    found: int
    others: int

    @property
    def recall(self) -> float:
        return self.found / self.places if self.places else 1.0

    @property
    def is_too_low(self) -> bool:
        return self.places >= LEAST_PLACES and self.recall < LEAST_RECALL


def rows(found: list[Case], by_variant: bool = False) -> list[Row]:
    """A row for every certain check, or for every variant of its mistake."""
    checks = certain()
    groups: dict[tuple[str, str], list[Case]] = {(code, ""): [] for code in checks} if not by_variant else {}
    for case in found:
        groups.setdefault((case.code, case.variant if by_variant else ""), []).append(case)
    return [
        Row(
            code,
            variant or checks[code].CHECK.name,
            len({case.script for case in cases}),
            len(cases),
            sum(case.found for case in cases),
            sum(bool(case.others) for case in cases),
        )
        for (code, variant), cases in groups.items()
    ]


def table(rows: list[Row]) -> str:
    lines = ["| check | scripts | places | found | recall | loud besides |", "|---|---|---|---|---|---|"]
    for row in rows:
        share = f"{row.recall:.0%}" if row.places else "-"
        lines.append(f"| {row.code} {row.name} | {row.scripts} | {row.places} | {row.found} | {share} | {row.others} |")
    places, found = sum(row.places for row in rows), sum(row.found for row in rows)
    share = f"{found / places:.0%}" if places else "-"
    return "\n".join([*lines, f"| all | | {places} | {found} | {share} | {sum(row.others for row in rows)} |"])


def readable(sources: dict[str, str]) -> dict[str, str]:
    """The scripts with a line end at their end, as the planters want them."""
    return {name: Script(source).source for name, source in sources.items()}
