"""The ledger of state bytes: the forecast, `explain()` and what lies in memory after a step are one number."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stepwell.anatomy import is_matrix
from stepwell.engine import bytes as ledger
from stepwell.engine import formats
from stepwell.groups.memory import group_state_bytes
from stepwell.optimizers import TABLE, Lookahead, find

BY_RULE = [name for name in TABLE if find(name).facts.kind not in ("closure", "wrapper")]
SHAPES = [(), (4099,), (65, 64), (6, 8, 3, 3), (7,), (1, 5), (129, 33)]


def stepped(name: str, shape: tuple[int, ...], dtype: torch.dtype, **options: Any) -> Any:
    p = torch.ones(shape, dtype=dtype, requires_grad=True)
    groups: list[dict[str, Any]] = [{"params": [p]}]
    if find(name).splits_by_role:  # it wants a matrix: a frozen one keeps no state
        groups[0]["use_muon"] = is_matrix(p)
        groups.append({"params": [torch.ones(2, 2, dtype=dtype)], "use_muon": True})
    optimizer = find(name)(groups, backend="auto" if find(name).view != "element" else "eager", **options)
    p.grad = torch.full_like(p, 0.1)
    optimizer.step()
    return optimizer


def told(optimizer: Any) -> int:
    """The bytes that `explain()` prints of the first group."""
    header, _, *lines = str(optimizer.explain()).splitlines()[1:]
    end = header.index("bytes") + len("bytes")
    return sum(int(line[:end].split()[-1].replace(",", "")) for line in lines if line.split()[:1] == ["0"])


@pytest.mark.parametrize("name", BY_RULE)
@settings(max_examples=12, deadline=None)
@given(
    shape=st.sampled_from(SHAPES),
    state=st.sampled_from(formats.STATES),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    weights=st.sampled_from(formats.WEIGHTS),
)
@example(shape=(129, 33), state="int4", dtype=torch.bfloat16, weights="split")
@example(shape=(6, 8, 3, 3), state="fp32", dtype=torch.float32, weights="native")
def test_forecast_is_explain_is_what_is_held(
    name: str, shape: tuple[int, ...], state: str, dtype: torch.dtype, weights: str
) -> None:
    optimizer = stepped(name, shape, dtype, state=state, weights=weights, **find(name).facts.compare_options)
    (group,) = (group for group in optimizer.param_groups if group["params"][0].requires_grad)
    (p,) = group["params"]
    held = sum(value.nbytes for key, value in optimizer.state[p].items() if key != "step")
    assert optimizer.state_bytes() == held
    assert round(group_state_bytes(group, optimizer, state)) == held
    assert ledger.of_tensor(optimizer.signature_for(group, p), group, p.shape, formats.NAMES[dtype]) == held
    assert told(optimizer) == held
    if weights == "native" or dtype != torch.bfloat16:  # a class has no format of weights yet
        assert round(group_state_bytes({"params": [p]}, find(name), state)) == held


def test_a_wrapper_keeps_its_copies_in_fp32_whatever_the_format_inside() -> None:
    p = torch.ones(128, 64, requires_grad=True)
    optimizer = Lookahead(find("adamw")([p], state="int8"))
    p.grad = torch.ones_like(p)
    optimizer.step()
    assert group_state_bytes({"params": [p]}, optimizer, "int8") == optimizer.state_bytes()


def test_held_by_anyone_counts_each_piece_of_memory_once() -> None:
    whole = torch.zeros(10)
    state = {0: {"a": whole[:5], "b": [whole[5:]], "step": torch.zeros(())}, "note": "text"}
    assert ledger.held_by_anyone(state) == 4 * 10 + 4
    assert ledger.held_in_state({whole: {"a": whole, "step": torch.zeros(())}, "note": {"a": whole}}) == 40
