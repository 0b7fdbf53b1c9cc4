"""Findings as plain text: one line, as a compiler prints it, or in full."""

from __future__ import annotations

from stepwell.findings.finding import Finding


def line(finding: Finding) -> str:
    """The finding in one line: severity, code, place and what was seen."""
    return f"{finding.severity} {finding.code} {finding.place}: {finding.seen}"


def text(finding: Finding) -> str:
    """The finding in full, as `str(finding)`: the line, the evidence, why the fault is harmful, what to do instead and
    the reference."""
    return str(finding)
