"""Findings and how they are worded."""

from __future__ import annotations

import dataclasses

import pytest

from stepwell.findings import Finding, gravest_first

FINDING = Finding("R09", "warning", "adamw", "best lr 0.1", "a better one may lie above", "widen", "arXiv 1")


def test_the_line_reads_like_a_compilers() -> None:
    assert FINDING.line() == "warning R09 adamw: best lr 0.1"


def test_the_text_has_all_that_was_said_and_no_empty_line() -> None:
    assert FINDING.text().splitlines() == [
        "warning R09 adamw: best lr 0.1",
        "  why: a better one may lie above",
        "  instead: widen",
        "  see: arXiv 1",
    ]
    assert "see:" not in dataclasses.replace(FINDING, reference="").text()


def test_the_gravest_come_first_and_equals_keep_their_order() -> None:
    error = dataclasses.replace(FINDING, severity="error", code="Z99")
    other = dataclasses.replace(FINDING, seen="second")
    note = dataclasses.replace(FINDING, severity="note", code="A01")
    assert gravest_first([note, FINDING, other, error]) == [error, FINDING, other, note]


def test_a_severity_is_one_of_three() -> None:
    with pytest.raises(ValueError, match="severity='fatal' is not one of error, warning, note"):
        dataclasses.replace(FINDING, severity="fatal")
    with pytest.raises(dataclasses.FrozenInstanceError):
        FINDING.code = "B"  # type: ignore[misc]
