"""Findings as SARIF 2.1.0, the format that code hosts and editors read.

Source: OASIS, Static Analysis Results Interchange Format 2.1.0 (2020), sections 3.27 (result) and 3.49 (rule).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stepwell.findings.check import Check
from stepwell.findings.finding import Finding
from stepwell.findings.fix import Fix
from stepwell.findings.place import Place, Source

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def sarif(findings: Sequence[Finding], tool: str, version: str, fingerprints: Sequence[str] = ()) -> str:
    """One SARIF log with one run of `tool`. Findings that are not in a file have a logical location: their place.

    Args:
        findings: what was found.
        tool, version: who found it.
        fingerprints: for each finding, a text that stays the same when its line moves; a code host then knows the
            finding again.
    """
    import json

    checks = sorted({one.check for one in findings}, key=lambda check: check.code)
    number = {check.code: place for place, check in enumerate(checks)}
    results = [_result(one, number[one.code]) for one in findings]
    for result, fingerprint in zip(results, fingerprints, strict=False):
        result["partialFingerprints"] = {"stepwell/v1": fingerprint}
    run = {
        "tool": {"driver": {"name": tool, "version": version, "rules": [_rule(check) for check in checks]}},
        "columnKind": "unicodeCodePoints",
        "results": results,
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2)


def _rule(check: Check) -> dict[str, Any]:
    return {
        "id": check.code,
        "name": check.name,
        "shortDescription": {"text": check.looks_for},
        "fullDescription": {"text": check.why},
        "help": {"text": check.instead},
        "defaultConfiguration": {"level": check.severity},
        "properties": {"certainty": check.certainty},
    }


def _result(finding: Finding, number: int) -> dict[str, Any]:
    result = {
        "ruleId": finding.code,
        "ruleIndex": number,
        "level": finding.severity,
        "message": {"text": f"{finding.seen}; {finding.check.why}; {finding.instead}"},
        "locations": [_location(finding.place)],
        "relatedLocations": [
            {**_location(one.place), "id": place, "message": {"text": one.seen}}
            for place, one in enumerate(finding.evidence)
        ],
    }
    if finding.fix is not None and isinstance(finding.place, Source):
        result["fixes"] = [_fix(finding.fix, finding.place)]
    return result


def _fix(fix: Fix, place: Source) -> dict[str, Any]:
    replacements = [
        {
            "deletedRegion": {
                "startLine": edit.start[0],
                "startColumn": edit.start[1],
                "endLine": edit.end[0],
                "endColumn": edit.end[1],
            },
            "insertedContent": {"text": edit.new},
        }
        for edit in fix.edits
    ]
    return {
        "description": {"text": fix.says},
        "artifactChanges": [{"artifactLocation": {"uri": _uri(place.file)}, "replacements": replacements}],
    }


def _location(place: Place) -> dict[str, Any]:
    if not isinstance(place, Source):
        return {"logicalLocations": [{"fullyQualifiedName": str(place)}]}
    region: dict[str, int] = {"startLine": place.line}
    if place.column is not None:
        region["startColumn"] = place.column
    if place.end is not None:
        region["endLine"], region["endColumn"] = place.end
    location: dict[str, Any] = {"physicalLocation": {"artifactLocation": {"uri": _uri(place.file)}, "region": region}}
    if place.cell is not None:  # the region is inside the cell
        location["logicalLocations"] = [{"name": f"cell {place.cell}", "kind": "module"}]
    return location


def _uri(file: str) -> str:
    """A path as a URI reference (RFC 3986); an absolute one with its scheme."""
    from pathlib import PurePath
    from urllib.parse import quote

    path = PurePath(file)
    return path.as_uri() if path.is_absolute() else quote(path.as_posix())
