"""One document under all checks."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

from stepwell.errors import printable
from stepwell.findings import Finding, Source
from stepwell.lint.document import Document
from stepwell.lint.suppressed import covers, muted


@dataclass(frozen=True)
class Hit:
    """A finding with what the surface must know of it.

    Attributes:
        finding: the finding; in `Examined.raw` with places in `Document.source`, in `Examined.hits` with those of the
            file.
        line: the line of source at which it points, without its end.
        muted: the words of `# noqa` comments that mute there.
    """

    finding: Finding
    line: str = ""
    muted: tuple[str, ...] = ()

    @property
    def is_muted(self) -> bool:
        return any(covers(word, self.finding.code) for word in self.muted)


@dataclass
class Examined:
    """What all checks found in a document, muted or not, selected or not, and what went wrong, a line each."""

    hits: list[Hit] = field(default_factory=list)
    raw: list[Hit] = field(default_factory=list)
    unreadable: str = ""
    failed: list[str] = field(default_factory=list)


def examined(document: Document) -> Examined:
    """All checks on a document. A check that raises is named in `failed`, and the others go on."""
    result = Examined()
    if not document.source.strip():
        return result
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the parser warns of the user's escape sequences
        return _examined(document, result)


def _examined(document: Document, result: Examined) -> Examined:
    from stepwell.lint.analysis import Unreadable, read
    from stepwell.lint.checks import load

    try:
        script = read(document.source, document.file)
    except Unreadable as error:
        place = document.place(Source(document.file, error.line, error.column))
        result.unreadable = f"{place}: {printable(error.message)}"
        return result
    except (RecursionError, MemoryError):
        result.unreadable = f"{document.file}: nested too deeply to be checked"
        return result
    found: list[Finding] = []
    for module in load():
        try:
            found += sorted(dict.fromkeys(module.find(script)), key=_order)
        except (Exception, RecursionError, MemoryError) as error:
            what = f"{type(error).__name__}: {printable(str(error))[:120]}"
            result.failed.append(f"internal error in {module.CHECK.code} on {document.file}: {what}; please report it")
    found.sort(key=_order)
    words = muted(document.source, script.tree, [_line(one) for one in found])
    for one, muting in zip(found, words, strict=True):
        text = document.line(_line(one))
        result.raw.append(Hit(one, text, muting))
        result.hits.append(Hit(document.located(one), text, muting))
    return result


def _line(finding: Finding) -> int:
    assert isinstance(finding.place, Source)
    return finding.place.line


def _order(finding: Finding) -> tuple[int, int, str]:
    assert isinstance(finding.place, Source)
    return finding.place.line, finding.place.column or 0, finding.code
