"""Findings as SARIF 2.1.0, the format that code hosts and editors read.

Source: OASIS, Static Analysis Results Interchange Format 2.1.0 (2020), sections 3.27 (result) and 3.49 (rule).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from stepwell.findings.check import Check
from stepwell.findings.finding import Finding
from stepwell.findings.place import Place, Source

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def sarif(findings: Sequence[Finding], tool: str, version: str) -> str:
    """One SARIF log with one run of `tool`. Findings that are not in a file have a logical location: their place."""
    checks = sorted({one.check for one in findings}, key=lambda check: check.code)
    number = {check.code: place for place, check in enumerate(checks)}
    run = {
        "tool": {"driver": {"name": tool, "version": version, "rules": [_rule(check) for check in checks]}},
        "columnKind": "unicodeCodePoints",
        "results": [_result(one, number[one.code]) for one in findings],
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
    return {
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


def _location(place: Place) -> dict[str, Any]:
    if not isinstance(place, Source):
        return {"logicalLocations": [{"fullyQualifiedName": str(place)}]}
    region: dict[str, int] = {"startLine": place.line}
    if place.column is not None:
        region["startColumn"] = place.column
    if place.end is not None:
        region["endLine"], region["endColumn"] = place.end
    uri = PurePath(place.file).as_posix()
    return {"physicalLocation": {"artifactLocation": {"uri": uri}, "region": region}}
