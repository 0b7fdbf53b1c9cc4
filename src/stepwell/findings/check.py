"""A check: one fault that a tool looks for, described once for every reader."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Literal

Severity = Literal["error", "warning", "note"]
Certainty = Literal["certain", "likely", "advice"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")  # the gravest first
CERTAINTIES: tuple[Certainty, ...] = ("certain", "likely", "advice")  # the surest first

_CODE = re.compile(r"[A-Z]{1,2}\d{2,3}")
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_MAY_BE_EMPTY = ("silent_when", "reference")


@dataclass(frozen=True, kw_only=True)
class Check:
    """One fault that a tool looks for. A check is written once; a `Finding` refers to it.

    Attributes:
        code: the short name that a user mutes, as "C04" or "SW101". A published code never changes its
            meaning.
        name: the fault in words joined by hyphens, as "best-rate-at-the-edge".
        severity: "error" invalidates the result, "warning" probably costs quality, "note" is informative.
        certainty: "certain": the observation is almost certainly a fault. "likely": it may be intended. "advice": not a
            fault, but worth a remark.
        looks_for: what the check looks for, as a clause: "the best learning rate is the highest tried".
        why: why the fault is harmful.
        instead: what to do instead, as one action.
        silent_when: when the check reports nothing in spite of the pattern; may be empty.
        example_bad: the smallest example that the check reports: source, or a sentence about a run.
        example_good: the example without the fault.
        reference: the source of the rule (a paper, a documentation page); may be empty.

    Raises ValueError for a code or name of another form, an unknown severity or certainty, an empty text.
    """

    code: str
    name: str
    severity: Severity
    certainty: Certainty
    looks_for: str
    why: str
    instead: str
    silent_when: str = ""
    example_bad: str
    example_good: str
    reference: str = ""

    def __post_init__(self) -> None:
        for one in fields(self):
            if not getattr(self, one.name).strip() and one.name not in _MAY_BE_EMPTY:
                raise ValueError(f"check {self.code!r}: {one.name} is empty")
        if not _CODE.fullmatch(self.code):
            raise ValueError(f"code={self.code!r} is not one or two capitals and two or three digits, as 'C04'")
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"check {self.code}: name={self.name!r} is not words joined by hyphens")
        for key, value, words in (
            ("severity", self.severity, SEVERITIES),
            ("certainty", self.certainty, CERTAINTIES),
        ):
            if value not in words:
                raise ValueError(f"check {self.code}: {key}={value!r} is not one of {', '.join(words)}")
