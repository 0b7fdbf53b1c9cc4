"""What a stored entry may be: no kernel gets what would take it out of its memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import stepwell as sw
from stepwell.engine import blocks, formats, stored
from stepwell.engine.rule import Slot
from stepwell.errors import UsageError

SHAPE = (60, 100)  # 6,000 elements: 24 blocks of int8, 47 of int4
SIGNED, UNSIGNED = Slot("v"), Slot("v", signed=False)


class Mine(torch.Tensor):
    """A subclass that changes nothing."""


def full(value: float = 0.0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.full(SHAPE, value, dtype=dtype)


def codes(dtype: torch.dtype = torch.uint8) -> Tensor:
    return torch.zeros(SHAPE, dtype=dtype)


def cut(*shape: int) -> Tensor:
    """A tensor whose storage was made smaller than it is."""
    value = torch.zeros(shape or SHAPE)
    value.untyped_storage().resize_(8)
    return value


GOOD: dict[str, tuple[dict[str, Any], str]] = {
    "fp32": ({"v": full()}, "fp32"),
    "fp16": ({"v": full(dtype=torch.float16)}, "fp16"),
    "fp64": ({"v": full(dtype=torch.float64)}, "fp64"),
    "transposed": ({"v": torch.zeros(100, 60).t()}, "fp32"),
    "expanded": ({"v": torch.zeros(1).expand(SHAPE)}, "fp32"),
    "a subclass": ({"v": full().as_subclass(Mine)}, "fp32"),
    "a parameter": ({"v": nn.Parameter(full())}, "fp32"),
    "int8": ({"v": codes(), "v_largest": torch.ones(60, 1)}, "int8"),
    "int8, scales cast": ({"v": codes(), "v_largest": torch.ones(60, 1, dtype=torch.float16)}, "int8"),
    "int4": ({"v": torch.zeros(60, 50, dtype=torch.uint8), "v_largest": torch.ones(60, 1)}, "int4"),
    "int8 of before": ({"v": codes(), "v_largest": torch.ones(24)}, "int8"),
    "int4 of before": ({"v": torch.zeros(47 * 64, dtype=torch.uint8), "v_largest": torch.ones(47)}, "int4"),
}
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "'v' of the parameter 'w' is a NoneType"),
    "a number": ({"v": 1.0}, "is a float"),
    "meta": ({"v": full().to("meta")}, "meta device"),
    "sparse": ({"v": full().to_sparse()}, "is sparse_coo"),
    "complex": ({"v": full().to(torch.complex64)}, "is complex"),
    "integers": ({"v": full().to(torch.int32)}, "is int32.*float32"),
    "float8": ({"v": full().to(torch.float8_e4m3fn)}, "is float8_e4m3fn"),
    "storage cut": ({"v": cut()}, "ends outside its storage"),
    "codes alone": ({"v": codes()}, "uint8 without block scales 'v_largest'"),
    "codes of int8": (
        {"v": codes(torch.int8), "v_largest": torch.ones(60, 1)},
        "int8, with block scales.*are uint8",
    ),
    "codes cast": ({"v": full(), "v_largest": torch.ones(60, 1)}, "float32, with block scales.*codes are uint8"),
    "a block less": ({"v": codes(), "v_largest": torch.ones(23)}, "not the blocks of 6,000"),
    "blocks of other lines": ({"v": codes(), "v_largest": torch.ones(24, 1)}, "not the blocks of 6,000"),
    "codes cut": ({"v": codes()[:-1], "v_largest": torch.ones(60, 1)}, "not the blocks of 6,000"),
    "scales cut": ({"v": codes(), "v_largest": cut(60, 1)}, "'v_largest'.*ends outside its storage"),
    "scales of int": ({"v": codes(), "v_largest": torch.ones(60, 1, dtype=torch.int32)}, "'v_largest'.*is int32"),
    "negative scales": ({"v": codes(), "v_largest": -torch.ones(60, 1)}, "'v_largest'.*negative"),
    "nan scales": ({"v": codes(), "v_largest": torch.full((60, 1), float("nan"))}, "'v_largest'.*nan"),
    "nan": ({"v": full(float("nan"))}, "holds nan"),
    "infinite": ({"v": full(float("inf"))}, "must be finite in float32"),
    "beyond float32": ({"v": full(1e300, torch.float64)}, "must be finite in float32"),
    "negative": ({"v": full(-1.0)}, "holds negative numbers"),
    "other shape": ({"v": full().t()}, r"shape \(100, 60\).*\(60, 100\)"),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_a_kernel_can_read_is_taken(name: str) -> None:
    entries, found = GOOD[name]
    assert stored.check("AdamW", "the parameter 'w'", UNSIGNED, entries, full()) == found


@pytest.mark.parametrize("name", BAD)
def test_what_no_kernel_can_read_is_refused_by_name(name: str) -> None:
    entries, said = BAD[name]
    with pytest.raises(UsageError, match=said) as refused:
        stored.check("AdamW", "the parameter 'w'", UNSIGNED, entries, full())
    assert "\n" not in str(refused.value)
    assert "the parameter 'w'" in str(refused.value)


def test_what_is_asked_for_decides() -> None:
    """Negative numbers where the rule has them; floats in the place of codes where a user has put them there; numbers
    that nobody looks at."""
    label = "the parameter 'w'"
    assert stored.check("Lion", label, SIGNED, {"v": full(-1.0)}, full()) == "fp32"
    replaced = {"v": full(), "v_largest": torch.ones(60, 1)}
    assert stored.check("Lion", label, SIGNED, replaced, full(), edited=True) == "fp32"
    assert stored.check("Lion", label, SIGNED, {"v": full(float("nan"))}, full(), values=False) == "fp32"
    assert stored.check("Lion", label, SIGNED, {"v": full(1e300, torch.float64)}, full(0.0, torch.float64)) == "fp64"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("state", ["int8", "int4"])
@pytest.mark.parametrize("backend", ["eager", "cpu"])
def test_block_scales_that_were_cast_are_cast_back(
    backend: str, state: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    """A kernel writes four bytes per block. Scales of two bytes, as a file may have them, were written past the end."""
    runs = []
    for cast in (torch.float32, dtype):
        model = nn.Linear(90, 70)
        torch.manual_seed(0)
        nn.init.normal_(model.weight)
        nn.init.zeros_(model.bias)
        optimizer = sw.AdamW(model.named_parameters(), state=state, backend=backend)
        step = sw.Step(optimizer, model=model)
        for _ in range(2):
            step(model(torch.ones(2, 90)).square().mean())
        path = step.save(tmp_path / f"{cast}.pt")
        content = torch.load(path, weights_only=True)
        for slots in content["step"]["optimizer"]["state"].values():
            for key in slots:
                if key.endswith("_largest"):
                    rounded = slots[key].to(dtype)
                    slots[key] = rounded if cast == dtype else rounded.to(torch.float32)
        torch.save(content, path)
        step.load(path)
        assert optimizer.state[model.weight]["exp_avg_largest"].dtype == torch.float32
        for _ in range(2):
            step(model(torch.ones(2, 90)).square().mean())
        runs.append(model.weight.detach().clone())
    assert torch.equal(*runs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_slots_that_were_cast_are_cast_back(dtype: torch.dtype) -> None:
    def trained() -> tuple[Any, Tensor]:
        p = torch.linspace(-1, 1, 50).requires_grad_()
        optimizer = sw.AdamW([p], lr=0.1)
        p.grad = torch.linspace(0.5, 2, 50)
        optimizer.step()
        return optimizer, p

    results = []
    for back in (False, True):
        optimizer, p = trained()
        saved = optimizer.state_dict()
        slots = saved["state"][0]
        for key in ("exp_avg", "exp_avg_sq", "step"):
            slots[key] = slots[key].to(dtype)
            slots[key] = slots[key].to(torch.float32) if back else slots[key]
        optimizer.load_state_dict(saved)
        optimizer.step()
        assert optimizer.state[p]["exp_avg"].dtype == torch.float32
        results.append(p.detach().clone())
    assert torch.equal(*results)


COUNTS: list[Any] = [1, 3.0, torch.tensor(3), torch.tensor([3.0]), torch.tensor(3.0, dtype=torch.float16)]
NO_COUNTS: list[Any] = [
    *(-1, -5.0, 2.5, float("nan"), float("inf"), True, None, "3", 10**400, 1j, [3], 1e30),
    *(torch.tensor(float("nan")), torch.tensor(1j), torch.zeros(2), torch.empty((), device="meta"), torch.tensor(True)),
]


@pytest.mark.parametrize("value", COUNTS, ids=repr)
def test_a_count_of_steps(value: Any) -> None:
    assert stored.count("AdamW", "the parameter 'w'", value) in (1, 3)


@pytest.mark.parametrize("value", NO_COUNTS, ids=lambda value: repr(value)[:20])
def test_no_count_of_steps(value: Any) -> None:
    with pytest.raises(UsageError, match=r"'step' of the parameter 'w' is .*a whole number of at least 0"):
        stored.count("AdamW", "the parameter 'w'", value)


@pytest.mark.parametrize("name", ["int8", "int4"])
@pytest.mark.parametrize("shape", [(64, 64), (8, 768), (4200,), (5000, 1), (41, 129), (90, 100)])
def test_codes_from_before_blocks_ended_with_rows_are_read(name: str, shape: tuple[int, ...]) -> None:
    """Exactly where a row is whole blocks or the tensor is one line; elsewhere to the nearest of the new codes."""
    code = blocks.CODES[name, False]
    values = torch.rand(shape, generator=torch.Generator().manual_seed(0)) + 0.1
    line = blocks.Lines(1, values.numel())
    codes, scales = code.encode(values.flatten(), None, line)
    expected = code.decode(codes, scales, line).view(shape)
    if name == "int4":  # the last block was packed like a whole one
        rows, half = code._unpacked(codes, line), code.block // 2
        codes = (rows[:, :half] | rows[:, half:] << 4).to(torch.uint8).flatten()
    else:
        codes = codes.view(shape)
    before = {"exp_avg_sq": codes, "exp_avg_sq_largest": scales[0], "step": torch.tensor(3.0)}
    parameter = nn.Parameter(torch.zeros(shape))
    optimizer = sw.Adam([parameter], lr=0.01, state=name, betas=(0.9, 0.99))
    parameter.grad = torch.zeros(shape)
    optimizer.step()
    content = optimizer.state_dict()
    content["state"][0] |= before
    optimizer.load_state_dict(content)
    optimizer.make_plan()
    state = optimizer.state[parameter]
    kept = state["exp_avg_sq"], state["exp_avg_sq_largest"]
    ours = formats.read(name, False, kept, values.numel(), torch.float32).view(shape)
    is_one_line = blocks.lines_of(shape).count == 1
    if is_one_line or shape[-1] % code.block == 0:
        assert torch.equal(ours, expected)
    else:
        assert ((ours - expected).abs() <= 0.07 * expected if name == "int8" else 0.6 * expected).all()
    optimizer.step()


@pytest.mark.parametrize("shapes", [((70, 65), (0, 1)), ((8, 5, 13, 9), (0, 2, 3, 1)), ((5000, 3), (1, 0))])
def test_old_int4_codes_in_another_order_of_memory_are_read(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    shape, order = shapes
    p = nn.Parameter(torch.zeros(shape))
    optimizer = sw.AdamW([p], lr=1e-3, state="int4", betas=(0.9, 0.99))
    p.grad = torch.ones(shape)
    optimizer.step()
    content = optimizer.state_dict()
    blocks_ = -(-p.numel() // 128)
    for name in ("exp_avg", "exp_avg_sq"):
        content["state"][0][name] = torch.full((blocks_ * 64,), 0x77, dtype=torch.uint8)
        content["state"][0][f"{name}_largest"] = torch.ones(blocks_)
    moved = [0] * len(order)
    for place, dimension in enumerate(order):
        moved[dimension] = place
    if order == tuple(sorted(order)):
        moved, order = [1, 0], (1, 0)
    other = nn.Parameter(torch.zeros([shape[d] for d in order]).permute(moved))
    assert other.shape == p.shape
    assert not other.is_contiguous()
    again = sw.AdamW([other], lr=1e-3, state="int4", betas=(0.9, 0.99))
    again.load_state_dict(content)
    other.grad = torch.ones_like(other)
    again.step()
    values = sw.AdamW([nn.Parameter(torch.zeros(shape))], lr=1e-3, state="fp32", betas=(0.9, 0.99))
    values.load_state_dict(content, keep_formats=True)
    (kept,) = values.state.values()
    assert kept["exp_avg_sq"].unique().numel() <= 2  # all codes are alike


def test_codes_with_gaps_are_copied() -> None:
    p = nn.Parameter(torch.zeros(70, 66))
    optimizer = sw.AdamW([p], lr=1e-3, state="int8")
    p.grad = torch.ones(70, 66)
    optimizer.step()
    codes_ = optimizer.state[p]["exp_avg"].clone()
    wide = torch.zeros(70, 132, dtype=torch.uint8)
    wide[:, ::2] = codes_
    optimizer.state[p]["exp_avg"] = wide[:, ::2]
    optimizer.step()
    twin = nn.Parameter(torch.zeros(70, 66))
    plain = sw.AdamW([twin], lr=1e-3, state="int8")
    for _ in range(2):
        twin.grad = torch.ones(70, 66)
        plain.step()
    assert torch.equal(p, twin)
