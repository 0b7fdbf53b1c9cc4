"""Findings: their form, their order and how they are worded."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import pytest

from stepwell.findings import (
    Check,
    Edit,
    Evidence,
    Finding,
    Fix,
    Run,
    Source,
    Tensor,
    Trial,
    as_dict,
    gravest_first,
    html,
    json_lines,
    line,
    sarif,
    text,
)
from stepwell.findings.fix import applied

CHECK = Check(
    code="R09",
    name="rate-at-the-edge",
    severity="warning",
    certainty="certain",
    looks_for="the best rate is the highest tried",
    why="a better one may lie above",
    instead="widen the range",
    example_bad="1 of 1",
    example_good="1 of 2",
    reference="arXiv 1",
)
FINDING = Finding(check=CHECK, place=Trial("adamw"), seen="best lr 0.1")
IN_SOURCE = Finding(
    check=CHECK,
    place=Source("a/train.py", 31, 5, (31, 20)),
    seen="step() without <backward>",
    evidence=(Evidence(Source("a/train.py", 29), "the loss is made here"),),
    instead="call loss.backward()",
    fix=Fix("insert it", (Edit((31, 5), (31, 5), "loss.backward()\n    "),), safe=True),
)


def test_the_line_reads_like_a_compilers() -> None:
    assert line(FINDING) == "warning R09 adamw: best lr 0.1"
    assert line(IN_SOURCE) == "warning R09 a/train.py:31:5: step() without <backward>"


def test_the_text_has_all_that_was_said_and_no_empty_line() -> None:
    assert text(FINDING).splitlines() == [
        "warning R09 adamw: best lr 0.1",
        "  why: a better one may lie above",
        "  instead: widen the range",
        "  see: arXiv 1",
    ]
    assert text(IN_SOURCE).splitlines()[1] == "  a/train.py:29: the loss is made here"
    assert "  instead: call loss.backward()" in text(IN_SOURCE)
    silent = dataclasses.replace(FINDING, check=dataclasses.replace(CHECK, reference=""))
    assert "see:" not in text(silent)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (Source("t.py", 3), "t.py:3"),
        (Source("n.ipynb", 3, 1, cell=7), "n.ipynb:cell 7:3:1"),
        (Tensor("fc.weight"), "fc.weight"),
        (Tensor("fc.weight", 10), "fc.weight at step 10"),
        (Trial("lion", 2), "lion, seed 2"),
        (Run(), "this run"),
        (Run(step=4), "this run at step 4"),
    ],
)
def test_places_are_said_in_the_users_terms(place: Any, words: str) -> None:
    assert str(place) == words


def test_the_gravest_come_first_then_the_surest_and_equals_keep_their_order() -> None:
    def other(**changes: Any) -> Finding:
        return dataclasses.replace(FINDING, check=dataclasses.replace(CHECK, **changes))

    error, note = other(severity="error", code="Z99"), other(severity="note", code="A01")
    likely, second = other(certainty="likely", code="A02"), dataclasses.replace(FINDING, seen="second")
    assert gravest_first([note, likely, FINDING, second, error]) == [error, FINDING, second, likely, note]
    lines = [dataclasses.replace(IN_SOURCE, place=Source("a.py", n)) for n in (10, 9, 100)]
    assert [one.place for one in gravest_first(lines)] == [Source("a.py", n) for n in (9, 10, 100)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"severity": "fatal"}, "severity='fatal' is not one of error, warning, note"),
        ({"certainty": "sure"}, "certainty='sure' is not one of certain, likely, advice"),
        ({"code": "r9"}, "code='r9'"),
        ({"name": "Two words"}, "name='Two words' is not words joined by hyphens"),
        ({"why": " "}, "why is empty"),
        ({"example_good": ""}, "example_good is empty"),
    ],
)
def test_a_check_is_whole(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        dataclasses.replace(CHECK, **changes)


def test_json_holds_everything() -> None:
    (only,) = (json.loads(one) for one in json_lines([IN_SOURCE]).splitlines())
    assert only == json.loads(json.dumps(as_dict(IN_SOURCE)))
    assert only["place"] == {
        "kind": "source", "file": "a/train.py", "line": 31, "column": 5, "end": [31, 20], "cell": None,
    }  # fmt: skip
    assert only["evidence"][0]["seen"] == "the loss is made here"
    assert only["fix"]["safe"] is True
    assert as_dict(FINDING)["place"] == {"kind": "trial", "optimizer": "adamw", "seed": None}
    assert json_lines([]) == ""


def test_sarif_has_rules_regions_and_logical_places() -> None:
    log = json.loads(sarif([IN_SOURCE, FINDING], "stepwell lint", "1.0"))
    (run,) = log["runs"]
    assert log["version"] == "2.1.0"
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == ["R09"]
    first, second = run["results"]
    assert first["locations"][0]["physicalLocation"]["region"] == {
        "startLine": 31, "startColumn": 5, "endLine": 31, "endColumn": 20,
    }  # fmt: skip
    assert first["relatedLocations"][0]["message"]["text"] == "the loss is made here"
    assert first["level"] == "warning"
    assert second["locations"] == [{"logicalLocations": [{"fullyQualifiedName": "adamw"}]}]


def test_html_is_escaped() -> None:
    page = html(IN_SOURCE)
    assert "&lt;backward&gt;" in page
    assert "<backward>" not in page
    assert 'class="card finding warning"' in page
    assert "Call loss.backward()." in page


def test_fixes_are_edits_of_the_source_and_overlapping_ones_wait() -> None:
    source = "one = 1\ntwo = 2\n"
    rename = Fix("rename", (Edit((1, 1), (1, 4), "uno"), Edit((2, 1), (2, 4), "dos")))
    other = Fix("value", (Edit((1, 3), (1, 8), "x"),))
    last = Fix("add a line", (Edit((3, 1), (3, 1), "three = 3\n"),))
    changed, made = applied(source, [rename, other, last])
    assert changed == "uno = 1\ndos = 2\nthree = 3\n"
    assert made == [rename, last]
    with pytest.raises(ValueError, match="overlap"):
        Fix("twice", (Edit((1, 1), (1, 4), "a"), Edit((1, 3), (1, 5), "b")))
    with pytest.raises(ValueError, match="before it begins"):
        Fix("backwards", (Edit((1, 4), (1, 1), "a"),))
