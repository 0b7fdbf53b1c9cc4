"""Findings: the reports of the checks of all tools, in one form.

A `Check` describes a fault once: how to recognize it, why it is harmful and what to do instead. A run of a tool
produces a `Finding`: the check, the place, the observation and the evidence. Every room has its checks in its module
`checks`; `table()` collects them by code, and `stepwell findings CODE` prints one of them.

>>> from stepwell.findings import Check, Finding, Trial, line
>>> check = Check(code="C04", name="best-rate-at-the-edge", severity="warning", certainty="certain",
...               looks_for="the best learning rate is the lowest or the highest of the rates tried",
...               why="a better rate may be outside the range", instead="widen the range",
...               example_bad="tried 1e-4 to 1e-2, best 1e-2", example_good="tried 1e-4 to 1, best 1e-2")
>>> line(Finding(check=check, place=Trial("adamw"), seen="its best lr 0.01 is the highest of the 6 tried"))
'warning C04 adamw: its best lr 0.01 is the highest of the 6 tried'

This room needs only Python's standard library.
"""

from __future__ import annotations

from stepwell.findings.check import CERTAINTIES, SEVERITIES, Certainty, Check, Severity
from stepwell.findings.finding import Evidence, Finding, gravest_first
from stepwell.findings.fix import Edit, Fix
from stepwell.findings.html import html
from stepwell.findings.json_lines import as_dict, json_lines
from stepwell.findings.place import Place, Run, Source, Tensor, Trial
from stepwell.findings.sarif import sarif
from stepwell.findings.table import find, table
from stepwell.findings.text import line, text

__all__ = [
    "CERTAINTIES",
    "SEVERITIES",
    "Certainty",
    "Check",
    "Edit",
    "Evidence",
    "Finding",
    "Fix",
    "Place",
    "Run",
    "Severity",
    "Source",
    "Tensor",
    "Trial",
    "as_dict",
    "find",
    "gravest_first",
    "html",
    "json_lines",
    "line",
    "sarif",
    "table",
    "text",
]
