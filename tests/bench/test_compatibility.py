"""`docs/compatibility.md` says what its program finds, and no failure of torch's tests is allowed without a reason."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from compatibility import checks, page, stand_in, torch_tests, verdicts
from compatibility.cases import Case
from compatibility.in_processes import SPREAD
from compatibility.subjects import SUBJECTS, Failed, Subject, outcome
from compatibility.verdicts import ALLOWED, Verdict
from stepwell.errors import UsageError
from stepwell.optimizers import TABLE
from tests.bench.conftest import BENCH

PAGE = (BENCH.parent / "docs" / "compatibility.md").read_text(encoding="utf-8")
SAMPLE = tuple(subject for subject in SUBJECTS if subject.label in ("AdamW int8", "SAM(SGD)"))
FOLDER = os.environ.get("STEPWELL_TORCH_TESTS")


@pytest.mark.parametrize("check", checks.QUICK)
def test_the_page_says_what_is_found(check: str) -> None:
    written = page.outcomes_of(PAGE)
    for place, found in checks.run({check: checks.QUICK[check]}, SAMPLE).items():
        assert written[place] == found
        assert page.is_right(found)


def test_the_page_has_every_check_and_nothing_wrong() -> None:
    written = page.outcomes_of(PAGE)
    assert list(dict.fromkeys(check for check, _ in written)) == [*checks.QUICK, *checks.SLOW, *SPREAD]
    assert list(dict.fromkeys(subject for _, subject in written)) == [subject.label for subject in SUBJECTS]
    assert [place for place, found in written.items() if not page.is_right(found)] == []


def test_every_optimizer_is_under_torchs_tests() -> None:
    wrappers = {"SAM", "ASAM", "Lookahead"}  # they take an optimizer, and not parameters
    assert {*stand_in.torch_names(), *stand_in.our_names()} == set(TABLE) - wrappers
    assert set(stand_in.our_names()) >= stand_in.MORE.keys()
    for name in set(TABLE) - wrappers:
        assert f"\n| {name} |" in PAGE, f"docs/compatibility.md has no line of {name}: print the page again"


def test_what_is_allowed_has_a_reason() -> None:
    for pattern, reason in ALLOWED.items():
        assert reason.endswith(".")
        assert f"- `{pattern}`: {reason}" in PAGE
    assert "### Failures\n" not in PAGE


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.skipif(FOLDER is None, reason="STEPWELL_TORCH_TESTS is not the folder `test` of torch's sources")
def test_torchs_own_tests() -> None:
    found = torch_tests.verdicts(Path(str(FOLDER)))
    assert [verdict for verdict in found if verdict.kind == verdicts.FAILED] == []
    assert verdicts.unused(found) == []


def test_a_case_is_judged_by_what_it_asks_for() -> None:
    tail = "SGD_cpu_float32"
    ends = {
        f"T.test_errors_{tail}": ("passed", ""),
        f"T.test_tensor_lr_{tail}": ("skipped", "Only runs on cuda"),
        f"T.test_param_groups_lr_{tail}": ("skipped", "Does not support param groups"),
        "TestDifferentiableOptimizer.test_sgd": ("failed", "UsageError: SGD: unknown option differentiable=True: no"),
        f"T.test_non_empty_state_{tail}": ("failed", "AssertionError"),
        f"T.test_step_pre_hook_{tail}": ("failed", "AssertionError"),
        f"T.test_step_post_hook_{tail}": ("failed", "AssertionError"),
    }
    reference = {name: Case(name, "passed") for name in ends}
    reference[f"T.test_step_pre_hook_{tail}"] = Case("", "failed")
    for missing in (f"T.test_complex_2d_{tail}", f"T.test_fused_large_tensor_{tail}", f"T.test_new_{tail}"):
        reference[missing] = Case(missing, "passed")
    reference["T.test_errors_Other_cpu_float32"] = Case("", "passed")  # of an optimizer that is not here
    allowed = {"T.test_step_post_hook_*": "A reason.", "T.test_of_nothing": "Another."}
    found = verdicts.judge([Case(name, *end) for name, end in ends.items()], reference, allowed, only=["SGD"])
    assert [verdict.kind for verdict in found] == [
        verdicts.PASSED,
        verdicts.GPU,
        verdicts.SKIPPED,
        verdicts.DIFFERENTIABLE,
        verdicts.FAILED,
        verdicts.TORCHS_OWN,
        verdicts.ALLOWED_KIND,
        verdicts.COMPLEX,
        verdicts.IMPLEMENTATION,
        verdicts.FAILED,
    ]
    assert {verdict.of for verdict in found} == {"SGD", "TestDifferentiableOptimizer"}
    assert verdicts.unused(found, allowed) == ["T.test_of_nothing"]


def test_the_page_is_read_as_it_was_written() -> None:
    outcomes = {
        ("`a`", "One"): "works",
        ("`a`", "Two"): "refused: it is so: by (1) rule",
        ("b", "One"): "-",
        ("b", "Two"): "differs: 1e-02 apart",
    }
    section = page.torch_section([Verdict("T.test_x_SGD_cpu_float32", "SGD", verdicts.FAILED, "for a reason")], "2.6.0")
    text = page.write(outcomes, section)
    assert page.outcomes_of(text) == outcomes
    assert page.old_torch_section(text) == section.rstrip()
    assert "- `T.test_x_SGD_cpu_float32`: for a reason" in text
    assert [page.is_right(found) for found in outcomes.values()] == [True, True, True, False]


def test_an_outcome_is_told_in_words() -> None:
    def raising(error: Exception) -> str:
        def check(subject: Subject) -> str | None:
            raise error

        return outcome(check, SUBJECTS[0])

    assert raising(UsageError("no, as it is said")) == "refused: no, as it is said"
    assert raising(Failed("the weights are apart")) == "differs: the weights are apart"
    assert raising(ImportError("No module named 'x'", name="x")) == "-"
    assert raising(ValueError("two\nlines")) == "fails: ValueError: two lines"
    assert outcome(lambda subject: None, SUBJECTS[0]) == "works"
