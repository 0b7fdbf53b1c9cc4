"""Findings as JSON, one object in a line."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from stepwell.findings.finding import Finding
from stepwell.findings.place import Place


def as_dict(finding: Finding) -> dict[str, Any]:
    """The finding as plain data.

    Keys: code, name, severity, certainty, place, seen, why, instead, evidence, fix, reference. A place has its kind
    ("source", "tensor", "trial" or "run") and its attributes.
    """
    check = finding.check
    return {
        "code": check.code,
        "name": check.name,
        "severity": check.severity,
        "certainty": check.certainty,
        "place": _place(finding.place),
        "seen": finding.seen,
        "why": check.why,
        "instead": finding.instead,
        "evidence": [{"place": _place(one.place), "seen": one.seen} for one in finding.evidence],
        "fix": None if finding.fix is None else asdict(finding.fix),
        "reference": check.reference,
    }


def json_lines(findings: Iterable[Finding]) -> str:
    """The findings, one per line; an empty text without findings."""
    import json

    return "".join(json.dumps(as_dict(one)) + "\n" for one in findings)


def _place(place: Place) -> dict[str, Any]:
    return {"kind": type(place).__name__.lower(), **asdict(place)}
