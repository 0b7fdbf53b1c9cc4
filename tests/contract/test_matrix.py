"""The cells of `docs/contract.md` hold, and the page says what was found. For `gpu`: `tests/interpreter`."""

import math
from pathlib import Path

import pytest
import torch

from tests.contract import matrix
from tests.contract.matrix import (
    BACKENDS,
    COMMAND,
    PAGE,
    STATES,
    WEIGHTS,
    WHOLE,
    cell,
    cells,
    committed_rows,
    is_run,
    page,
    printed,
)  # fmt: skip
from tests.contract.table import MATRIX, RULES


@pytest.mark.slow
@pytest.mark.parametrize(("name", "weights", "state"), cells("eager"))
def test_a_cell_of_eager_holds_and_is_printed(name: str, weights: str, state: str) -> None:
    assert cell("eager", name, weights, state) == printed("eager", name, weights, state), f"run `{COMMAND} {name}`"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "weights", "state"), cells("cpu"))
def test_a_cell_of_cpu_holds_and_is_printed(name: str, weights: str, state: str) -> None:
    assert cell("cpu", name, weights, state) == printed("cpu", name, weights, state), f"run `{COMMAND} {name}`"


@pytest.mark.parametrize("backend", BACKENDS)
def test_cells_that_are_not_run_say_so(backend: str) -> None:
    for name in RULES:
        for weights in WEIGHTS:
            for state in STATES:
                shown = printed(backend, name, weights, state)
                assert (shown == ".") == (not is_run(backend, name, weights, state)), f"run `{COMMAND} {name}`"


def test_the_page_is_what_its_rows_print() -> None:
    text = PAGE.read_text()
    rows = committed_rows(text)
    assert list(rows) == list(BACKENDS)
    for backend in BACKENDS:
        assert list(rows[backend]) == list(RULES), f"run `{COMMAND} ...` with the names whose lines are missing"
    assert page(rows) == text, f"run `{COMMAND}`"


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_pair_is_run(backend: str) -> None:
    cells = [(n, w, s) for n in RULES for w in WEIGHTS for s in STATES if is_run(backend, n, w, s)]
    assert len({(name, weights) for name, weights, _ in cells}) == len(RULES) * len(WEIGHTS)
    assert len({(name, state) for name, _, state in cells}) == len(RULES) * len(STATES)
    assert len({(weights, state) for _, weights, state in cells}) == len(WEIGHTS) * len(STATES)
    for name in (*WHOLE, *(MATRIX if backend != "eager" else ())):
        assert sum(n == name for n, _, _ in cells) == len(WEIGHTS) * len(STATES)


def test_a_cell_that_does_not_hold_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    from stepwell.engine import formats, randomness

    right = randomness.round_stochastically
    for module in (formats, randomness):  # slots, weights
        monkeypatch.setattr(module, "round_stochastically", lambda v, r, dtype: right(v * 1.01, r, dtype))
    with pytest.raises(AssertionError, match=r"^exp_avg of tensor 0 in step 1 differs at \d+ of 4096 elements, "):
        cell("eager", "Lion", "fp32", "bf16")
    with pytest.raises(AssertionError, match=r"^weights of tensor 0 differs at .* at \[\d+\]: \S+ instead of \S+$"):
        cell("cpu", "Lion", "bf16 stochastic", "fp32")
    with monkeypatch.context() as allowing:  # a tie may be one of a slot, too
        allowing.setitem(matrix.TIES, "Lion", 1.0)
        assert cell("eager", "Lion", "fp32", "bf16") == "r"
    monkeypatch.undo()
    assert cell("eager", "Lion", "fp32", "bf16") == "r"
    assert torch.get_default_dtype() == torch.float32


def test_the_command_names_each_bad_cell_and_runs_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def some(backend: str, name: str, weights: str, state: str) -> str:
        if (weights, state) == ("fp16", "fp32"):
            raise AssertionError("exp_avg of tensor 1 differs at 3 of 4191 elements")
        if (backend, weights, state) == ("cpu", "fp32", "int8"):
            raise KeyError("a rule's own")
        if (backend, weights, state) == ("cpu", "fp64", "int8"):
            pytest.fail("DID NOT RAISE")
        return "r"

    page_of_test = tmp_path / "contract.md"
    monkeypatch.setattr(matrix, "PAGE", page_of_test)
    monkeypatch.setattr(matrix, "cell", some)
    monkeypatch.setattr(matrix.subprocess, "run", lambda *_, **__: type("Done", (), {"stdout": '[{"gpu": {}}, ["g"]]'}))
    with pytest.raises(SystemExit) as end:
        matrix.main(["Lion"])
    assert str(end.value).splitlines() == [
        "Lion on eager, weights fp16, state fp32: exp_avg of tensor 1 differs at 3 of 4191 elements",
        """Lion on cpu, weights fp32, state int8: KeyError: "a rule's own\"""",
        "Lion on cpu, weights fp64, state int8: Failed: DID NOT RAISE",
        "Lion on cpu, weights fp16, state fp32: exp_avg of tensor 1 differs at 3 of 4191 elements",
        "g",
        "5 cells do not hold; no page was written",
    ]
    said = capsys.readouterr().err
    assert "rr!r" in said
    assert "rrrr" in said.split("cpu")[1]
    assert not page_of_test.exists()


def test_the_worst_element_is_named_and_nan_never_passes() -> None:
    want = torch.zeros(2, 3, dtype=torch.float64)
    got = want.clone()
    got[1, 2], got[0, 1] = 3.0, 1.0
    with pytest.raises(AssertionError, match=r"^s differs at 2 of 6 elements, most at \[1, 2\]: 3 instead of 0$"):
        matrix._assert_within(got, want, torch.full((2, 3), 0.5), "s")
    matrix._assert_within(got, want, torch.full((2, 3), 0.5), "s", but=0.4)
    got[0, 0] = math.nan
    with pytest.raises(AssertionError, match=r"most at \[0, 0\]: nan instead of 0$"):
        matrix._assert_within(got, want, torch.full((2, 3), math.inf), "s")
    with pytest.raises(AssertionError, match="shape"):
        matrix._assert_within(got[0], want, torch.zeros(()), "s")
    endless = torch.full((2,), math.inf)
    matrix._assert_within(endless, endless, torch.zeros(()), "s")


def test_ties_are_a_small_share_beside_a_referee() -> None:
    assert {"Lion", "Rprop", "Signum"} <= set(matrix.TIES) < set(RULES)
    assert all(0 < share <= 1e-2 for share in matrix.TIES.values())
