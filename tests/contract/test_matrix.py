"""The cells of `docs/contract.md` hold, and the page says what was found. For `gpu`: `tests/interpreter`."""

import pytest
import torch

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
    with pytest.raises(AssertionError):
        cell("eager", "Lion", "fp32", "bf16")
    with pytest.raises(AssertionError):
        cell("cpu", "Lion", "bf16 stochastic", "fp32")
    monkeypatch.undo()
    assert cell("eager", "Lion", "fp32", "bf16") == "r"
    assert torch.get_default_dtype() == torch.float32
