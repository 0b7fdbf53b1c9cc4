"""The findings of a run in the forms that people and programs read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from stepwell.errors import printable
from stepwell.findings import Finding, Source
from stepwell.lint.examined import Hit
from stepwell.lint.marked import marked
from stepwell.lint.report import Report

_COLORS = {"error": "31", "warning": "33", "note": "36"}


def text(report: Report, color: bool = False) -> str:
    """Each finding with its line, why it hurts, what to write instead, and the lines that prove it."""
    return "".join(_in_full(hit, report, color) + "\n" for hit in report.hits)


def concise(report: Report, color: bool = False) -> str:
    """A line for each finding, as a compiler prints it."""
    return "".join(_head(one, report, color) + "\n" for one in report.findings)


def as_json(report: Report, color: bool = False) -> str:
    """A list of `findings.as_dict`."""
    import json

    from stepwell.findings import as_dict

    return json.dumps([as_dict(one) for one in report.findings], indent=2) + "\n"


def as_json_lines(report: Report, color: bool = False) -> str:
    """The same, an object in each line."""
    from stepwell.findings import json_lines

    return json_lines(report.findings)


def github(report: Report, color: bool = False) -> str:
    """Workflow commands, which GitHub shows beside the lines of a change.

    Source: GitHub Docs, "Workflow commands for GitHub Actions", setting an error message.
    """
    lines = []
    for one in report.findings:
        place = source_of(one)
        kind = {"error": "error", "warning": "warning"}.get(one.severity, "notice")
        # a place in a cell is none in the file, which GitHub shows as JSON
        facts: dict[str, object] = {"file": place.file}
        if place.cell is None:
            facts |= {"line": place.line}
            facts |= {} if place.column is None else {"col": place.column}
            facts |= {} if place.end is None else {"endLine": place.end[0]}
            if place.end is not None and place.end[0] == place.line:
                facts |= {"endColumn": place.end[1]}
        facts |= {"title": f"stepwell {one.code} {one.check.name}"}
        said = ",".join(f"{key}={_escaped(str(value), is_property=True)}" for key, value in facts.items())
        cell = "" if place.cell is None else f"cell {place.cell}, line {place.line}: "
        lines.append(f"::{kind} {said}::{_escaped(f'{cell}{one.seen}: {one.check.why}. Instead: {one.instead}')}\n")
    return "".join(lines)


def sarif(report: Report, color: bool = False) -> str:
    """A SARIF 2.1.0 log; its fingerprints stay when lines move."""
    from stepwell import __version__
    from stepwell.findings import sarif as log

    return log(report.findings, "stepwell lint", __version__, fingerprints(report.hits)) + "\n"


def fingerprints(hits: list[Hit]) -> list[str]:
    """For each finding a hash of its code, its line without blanks, and its number among those alike in the file."""
    from collections import Counter
    from hashlib import sha256

    seen: Counter[tuple[str, str, str]] = Counter()
    found = []
    for hit in hits:
        same = (source_of(hit.finding).file, hit.finding.code, "".join(hit.line.split()))
        found.append(sha256("\0".join([*same[1:], str(seen[same])]).encode("utf-8", "surrogatepass")).hexdigest()[:32])
        seen[same] += 1
    return found


FORMATS: Mapping[str, Callable[[Report, bool], str]] = MappingProxyType(
    {
        "text": text,
        "concise": concise,
        "json": as_json,
        "json-lines": as_json_lines,
        "github": github,
        "sarif": sarif,
    }
)


def statistics(report: Report, is_json: bool) -> str:
    """How often each code was found."""
    rows = report.statistics()
    if is_json:
        import json

        keys = ("count", "code", "name", "fixable")
        return json.dumps([dict(zip(keys, row, strict=True)) for row in rows], indent=2) + "\n"
    width = max((len(str(row[0])) for row in rows), default=0)
    return "".join(
        f"{count:>{width}}  {code}  {'[*]' if fixable else '[ ]'}  {name}\n" for count, code, name, fixable in rows
    )


def _in_full(hit: Hit, report: Report, color: bool) -> str:
    finding = hit.finding
    lines = [_head(finding, report, color)]
    shown = marked(hit.line, source_of(finding))
    if shown:
        under = _painted(shown[1], _COLORS[finding.severity], color)
        lines += [f"    {shown[0]}", f"    {under}"]
    lines.append(f"  why: {printable(finding.check.why)}")
    lines.append(f"  instead: {printable(finding.instead)}")
    lines += [f"  {printable(str(one.place))}: {printable(one.seen)}" for one in finding.evidence]
    if finding.fix is not None:
        option = "--fix" if finding.fix.safe else "--fix --unsafe-fixes"
        lines.append(f"  fix ({option}): {printable(finding.fix.says)}")
    return "\n".join(lines) + "\n"


def _head(finding: Finding, report: Report, color: bool) -> str:
    place = _painted(printable(str(finding.place)), "1", color)
    code = _painted(finding.code, _COLORS[finding.severity], color)
    fixable = "[*] " if report.is_fixable(finding) else ""
    return f"{place}: {code} {fixable}{printable(finding.seen)}"


def _painted(text: str, how: str, color: bool) -> str:
    return f"\033[{how}m{text}\033[0m" if color else text


def _escaped(text: str, is_property: bool = False) -> str:
    text = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return text.replace(":", "%3A").replace(",", "%2C") if is_property else text


def source_of(finding: Finding) -> Source:
    assert isinstance(finding.place, Source)
    return finding.place
