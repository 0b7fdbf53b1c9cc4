"""Every optimizer in every format: kernels equal the definition, state is as small as it says, split loses nothing."""

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import stepwell
from stepwell.engine import blocks, formats, halves, randomness
from stepwell.optimizers import find
from tests.contract.matrix import place_of
from tests.contract.table import MATRIX, ROWS, RULES, SUMMED, further_rows
from tests.contract.test_contract import assert_bits_equal, leaves, run

STATES = ("fp32", "bf16", "int8", "int4")
# around the block sizes 128 and 256 and the 4,096 below which state stays fp32; a channels-last kernel
SIZES = [(4096,), (4097,), (65, 64), (33, 255), (16, 32, 3, 3), (100,), ()]


def problem(dtype: torch.dtype, steps: int = 6) -> tuple[list[torch.Tensor], list[list[torch.Tensor]]]:
    generator = torch.Generator().manual_seed(3)

    def draw(shape: tuple[int, ...], scale: float) -> torch.Tensor:
        x = torch.randn(shape, generator=generator) * scale
        x = x.to(memory_format=torch.channels_last) if len(shape) == 4 else x
        return x.to(dtype)

    params = [draw(shape, 0.5) for shape in SIZES]
    # gradients of very different sizes, some exactly zero: all of a code's range is used
    grads = [[draw(shape, 10.0 ** (step % 4 - 3)) for shape in SIZES] for step in range(steps)]
    for row in grads:
        row[3][:, :40] = 0
    return params, grads


FURTHER = [row for row in further_rows() if row.values[0] not in MATRIX]  # first ones: matrix.py


@pytest.mark.parametrize("state", [pytest.param(state, id=f"{state}-cpu") for state in STATES[1:]])
@pytest.mark.parametrize(("name", "options"), FURTHER)
def test_kernels_equal_the_definition_bit_for_bit(name: str, options: dict[str, Any], state: str) -> None:
    params, grads = problem(torch.float32)
    results = []
    for backend in ("eager", "cpu"):
        ours = leaves(params)
        optimizer = find(name)(ours, backend=backend, state=state, **options)
        run(optimizer, ours, grads)
        results.append((ours, [v for p in ours for v in optimizer.state[p].values()]))
    if name in SUMMED:  # a sum that differs in its last place can move a value over the edge between two codes
        for x, y in zip(results[0][0], results[1][0], strict=True):
            torch.testing.assert_close(x, y, rtol=0.02, atol=0.02)
        return
    assert_bits_equal(results[0][1], results[1][1])
    assert_bits_equal(results[0][0], results[1][0])


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", MATRIX)
def test_matrix_rules_hold_in_every_format(name: str, state: str) -> None:
    """Close to an fp32 state after some steps, further off the coarser the format; resumed bit for bit."""
    options = {**ROWS[name][0], "lr": 1e-3}
    start = torch.randn(64, 72, generator=torch.Generator().manual_seed(0))
    grads = [[torch.randn(64, 72, generator=torch.Generator().manual_seed(i))] for i in range(1, 9)]
    ends = []
    for kind in ("fp32", state):
        ours = leaves([start])
        optimizer = find(name)(ours, state=kind, **options)
        run(optimizer, ours, grads[:5])
        saved, at = copy.deepcopy(optimizer.state_dict()), leaves(ours)
        run(optimizer, ours, grads[5:])
        resumed = find(name)(at, state=kind, **options)
        resumed.load_state_dict(saved)
        run(resumed, at, grads[5:])
        assert_bits_equal(ours, at)
        ends.append(ours[0].detach())
    moved = (ends[0] - start).norm()
    share = float((ends[0] - ends[1]).norm() / moved)
    assert share <= {"fp32": 0.0, "bf16": 0.04, "int8": 0.1, "int4": 0.3}[state]
    kept = {
        slot.format(optimizer.param_groups[0], state)
        for slot in optimizer.slots
        if not slot.is_number and slot.exists(optimizer.param_groups[0])
    }
    assert (share > 0) == bool(kept - {"fp32"})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", ["eager", "cpu"])
def test_split_weights_equal_an_fp32_run_to_the_last_bit(dtype: torch.dtype, backend: str) -> None:
    generator = torch.Generator().manual_seed(0)
    size = 5000
    # fp16 keeps all of float32's bits from 2**-16 to 65504 (halves.split says why): stay inside
    start = (torch.rand(size, generator=generator) + 0.5).to(dtype)
    low, full = start.clone().requires_grad_(), start.float().requires_grad_()
    optimizers = [stepwell.AdamW([p], lr=1e-4, weight_decay=0.1, weights="split", backend=backend) for p in (low, full)]
    for _ in range(40):
        gradient = torch.randn(size, generator=generator).to(dtype)
        low.grad, full.grad = gradient, gradient.float()
        for optimizer in optimizers:
            optimizer.step()
    joined = halves.join(low.detach(), optimizers[0].state[low]["low_bits"])
    assert torch.equal(joined, full)
    assert not torch.equal(low.float(), full)
    spacing = 2.0 ** -(7 if dtype == torch.bfloat16 else 10)
    assert ((low.float() - full).abs() <= full.abs() * spacing).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["LARS", "LAMB"])
def test_split_weights_under_sums_equal_an_fp32_run_too(name: str, dtype: torch.dtype) -> None:
    """The ratio of norms is the same number, whatever order a kernel adds in."""
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        start = (torch.rand(70, 80, generator=generator) + 0.5).to(dtype)
        low, full = start.clone().requires_grad_(), start.float().requires_grad_()
        optimizers = [find(name)([p], exclude="none", weights="split", backend="cpu") for p in (low, full)]
        for _ in range(20):
            gradient = torch.randn(70, 80, generator=generator).to(dtype)
            low.grad, full.grad = gradient, gradient.float()
            for optimizer in optimizers:
                optimizer.step()
        assert torch.equal(halves.join(low.detach(), optimizers[0].state[low]["low_bits"]), full)


def test_native_bf16_loses_small_updates_that_the_others_keep() -> None:
    moved = {}
    for weights in formats.WEIGHTS:
        p = torch.ones(4096, dtype=torch.bfloat16, requires_grad=True)
        optimizer = stepwell.SGD([p], lr=1e-4, weights=weights)
        for _ in range(100):
            p.grad = torch.ones_like(p)
            optimizer.step()
        moved[weights] = 1 - p.float().mean().item()
    assert moved["native"] == 0.0  # each update of 1e-4 is below half of bf16's last place beside 1.0
    assert moved["split"] == pytest.approx(0.01, rel=0.3)  # within bf16's last place of the true 0.01
    assert moved["stochastic"] == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [1.2345678, -0.003217, 3.1e-6])
def test_stochastic_rounding_has_the_right_mean(dtype: torch.dtype, value: float) -> None:
    count = 200_000
    values = torch.full((count,), value)
    random = randomness.random_bits(randomness.key_of(1, 2, 3), count, torch.device("cpu")) >> 16
    rounded = randomness.round_stochastically(values, random, dtype).double()
    neighbours = rounded.unique()
    assert len(neighbours) == 2
    assert neighbours[0] < values[0] < neighbours[1]
    spacing = (neighbours[1] - neighbours[0]).item()
    # 5 standard deviations of the mean of a coin of at most spacing / 2
    assert abs(rounded.mean().item() - values[0].item()) < 5 * spacing / 2 / math.sqrt(count) + spacing * 2.0**-16


def test_the_seed_chooses_the_random_bits_and_tensors_differ() -> None:
    def after(seed: int) -> list[torch.Tensor]:
        params = [torch.ones(4096, dtype=torch.bfloat16, requires_grad=True) for _ in range(2)]
        optimizer = stepwell.SGD(params, lr=1e-3, weights="stochastic", seed=seed)
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.step()
        return params

    first, same, other = after(0), after(0), after(1)
    assert_bits_equal(first, same)
    assert not torch.equal(first[0], other[0])
    assert not torch.equal(first[0], first[1])


@given(
    values=st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=700),
    name=st.sampled_from(["int8", "int4"]),
    signed=st.booleans(),
)
def test_codes(values: list[float], name: str, signed: bool) -> None:
    code = blocks.CODES[name, signed]
    x = torch.tensor(values) if signed else torch.tensor(values).abs()
    for random in (None, randomness.code_bits(1, 2, 3, 0, x.numel(), x.device)):
        codes, scales = code.encode(x, random)
        y = code.decode(codes, scales, blocks.Lines(1, x.numel()))
        scales = scales[0]
        assert codes.numel() == code.code_bytes(x.numel())
        assert y.isfinite().all()
        for start in range(0, x.numel(), code.block):
            a, b = x[start : start + code.block], y[start : start + code.block]
            if scales[start // code.block] == 0:  # all that decide the scale are below the normal numbers
                assert (b == 0).all()
                assert (a.abs() >= torch.finfo(torch.float32).tiny).sum() <= code.few
                continue
            counted = a[a.abs() <= scales[start // code.block] * (1 + 2e-7)]  # the others do not decide the scale
            assert len(a) - len(counted) <= code.few
            top = counted.abs().max()
            if top < torch.finfo(torch.float32).tiny:
                assert (b[a.abs() <= top] == 0).all()
                continue
            assert ((a - b).abs() <= place_of(name, signed, a.double())).all()
            assert (b[a == 0] == 0).all()
            if not signed:
                assert ((b == 0) == (a == 0)).all()
            elif not code.dithered:
                assert (torch.sign(a) * torch.sign(b) >= 0).all()
        if not code.dithered:  # but for the grid of another scale, stored numbers are stored again as they are
            again = code.encode(y, random)
            same = (again[1][0] == scales).repeat_interleave(code.block)[: x.numel()]
            assert torch.equal(code.decode(*again, blocks.Lines(1, x.numel()))[same], y[same])


@pytest.mark.parametrize("creep", [1e-7, 1e-6, -1e-5])
@pytest.mark.parametrize("name", ["int8", "int4"])
@pytest.mark.parametrize("signed", [True, False])
def test_codes_have_the_right_mean(name: str, signed: bool, creep: float) -> None:
    """Of many roundings, also where the codes are far apart and of a scale that creeps: its bits make the dither."""
    code = blocks.CODES[name, signed]
    x = torch.exp(torch.linspace(-9, 0, code.block)) * (-1) ** torch.arange(code.block)
    x = x if signed else x.abs()
    total, count = torch.zeros(code.block, dtype=torch.float64), 2000
    for step in range(count):
        moved = x * (1 + step * creep) if code.dithered else x
        codes = code.encode(moved, randomness.code_bits(0, 0, step, 0, code.block, x.device))
        total += code.decode(*codes, blocks.Lines(1, code.block)).double() - moved.double()
    off = (total / count).abs()
    small = x.abs() < code._back(torch.tensor(1 / code.count))  # what is above zero is never stored as zero
    assert (off[~small] <= place_of(name, signed, x.double())[~small] * (0.1 if code.dithered else 0.02)).all()


def test_one_element_far_above_its_block_costs_one_element() -> None:
    for name, signed in blocks.CODES:
        code = blocks.CODES[name, signed]
        x = torch.rand(code.block, generator=torch.Generator().manual_seed(0)) + 0.5
        alone = code.decode(*code.encode(x), blocks.Lines(1, code.block))
        for huge in (1e13, 1e30, math.inf, math.nan):
            spoilt = x.clone()
            spoilt[7] = huge
            y = code.decode(*code.encode(spoilt), blocks.Lines(1, code.block))
            assert y.isfinite().all()
            others = torch.arange(code.block) != 7
            assert ((y - alone)[others].abs() <= 2 * place_of(name, signed, x.double())[others]).all()
            assert y[7] >= 0.75 * y[others].max()  # as large as there is


@pytest.mark.parametrize("backend", ["eager", "cpu"])
@pytest.mark.parametrize("state", ["int8", "int4"])
def test_one_huge_gradient_costs_one_weight(backend: str, state: str) -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(4096, generator=generator)
    params = {one: start.clone().requires_grad_() for one in ("fp32", state)}
    optimizers = {one: stepwell.AdamW([p], lr=1e-2, state=one, backend=backend) for one, p in params.items()}
    for step in range(12):
        gradient = 1 + 0.1 * torch.randn(4096, generator=generator)
        if step == 4:
            gradient[100] = 1e30
        for one, p in params.items():
            p.grad = gradient.clone()
            optimizers[one].step()
    moved = {one: (start - p.detach()).abs() for one, p in params.items()}
    others = torch.arange(4096) != 100
    assert params[state].isfinite().all()
    torch.testing.assert_close(moved[state][others], moved["fp32"][others], rtol=0.5, atol=0.0)


@pytest.mark.parametrize("name", ["int8", "int4"])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("value", [0.0, 0.3, -2.0])
@pytest.mark.parametrize(
    "shape", [(1,), (127,), (128,), (256,), (300,), (5120,), (3, 64), (5, 70), (2, 255), (3, 512), (4, 577), (0, 80)]
)
def test_a_constant_has_the_codes_of_its_elements(
    name: str, signed: bool, value: float, shape: tuple[int, ...]
) -> None:
    code, lines = blocks.CODES[name, signed], blocks.lines_of(shape)
    value = value if signed else abs(value)
    codes = torch.empty(lines.count, code.code_bytes(lines.length), dtype=torch.uint8)
    found = (codes, code.encode_constant(value, codes, lines))
    for mine, theirs in zip(found, code.encode(torch.full((math.prod(shape),), value), None, lines), strict=True):
        assert torch.equal(mine, theirs)


OUTSIDE = {
    "mask": lambda p: p.mul_(torch.arange(p.numel()).reshape(p.shape) % 2),
    "zero": lambda p: p.zero_(),
    "clamp": lambda p: p.clamp_(min=0),
    "negative zero": lambda p: p.fill_(-0.0),
    "other weights": lambda p: p.copy_(torch.linspace(-2, 2, p.numel()).reshape(p.shape)),
    "data": lambda p: p.data.mul_(0),
    "infinite": lambda p: p[0].fill_(math.inf),
}


@pytest.mark.parametrize("what", OUTSIDE)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", ["eager", "cpu"])
def test_split_weights_changed_from_outside_go_on_from_there(what: str, dtype: torch.dtype, backend: str) -> None:
    generator = torch.Generator().manual_seed(0)
    p = torch.randn(64, 64, generator=generator).to(dtype).requires_grad_()
    optimizer = stepwell.SGD([p], lr=1e-3, weights="split", backend=backend)
    for _ in range(5):
        p.grad = torch.randn(64, 64, generator=generator).to(dtype)
        optimizer.step()
    with torch.no_grad():
        OUTSIDE[what](p)
    held = p.detach().float()
    for _ in range(20):
        p.grad = -torch.ones_like(p)
        optimizer.step()
    finite = held.isfinite()
    assert torch.equal(p.isfinite(), finite)
    # the low bits of the weight before are at most half a unit in the last place of the new one
    spacing = 2.0 ** -(8 if dtype == torch.bfloat16 else 11)
    wanted = held + 0.02
    place = spacing * (held.abs() + wanted.abs()) + 2.0**-24
    assert ((p.detach().float() - wanted).abs() <= place)[finite].all()


@pytest.mark.slow
@pytest.mark.parametrize("name", list(RULES))
def test_no_optimizer_loses_split_weights_that_were_set_to_zero(name: str) -> None:
    ends = {}
    for weights in ("split", "stochastic"):
        torch.manual_seed(0)
        p = torch.nn.Parameter(torch.randn(64, 64).to(torch.bfloat16))
        optimizer = find(name)([p], weights=weights)
        for _ in range(3):
            p.grad = torch.randn_like(p)
            optimizer.step()
        with torch.no_grad():
            p.mul_((torch.arange(64) % 2)[:, None])
        for _ in range(10):
            p.grad = -torch.ones_like(p) + 0.1 * torch.randn_like(p)
            optimizer.step()
        ends[weights] = p.detach().float()
    assert ends["split"].isfinite().all()
    assert (ends["split"][::2] == 0).float().mean() <= (ends["stochastic"][::2] == 0).float().mean() + 0.01


@pytest.mark.parametrize("bits", [0x7FC00000, 0x7FFFFFFF, -0x400000, -1])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_split_keeps_what_is_not_a_number_visible(bits: int, dtype: torch.dtype) -> None:
    high, low = halves.split(torch.tensor([bits], dtype=torch.int32).view(torch.float32), dtype)
    assert high.isnan().all()
    assert halves.join(high, low).isnan().all()


@given(st.integers(0, 2**32 - 1))
def test_split_of_bf16_is_exact_for_every_number(bits: int) -> None:
    x = torch.tensor([bits - 2**32 if bits >= 2**31 else bits], dtype=torch.int32).view(torch.float32)
    high, low = halves.split(x, torch.bfloat16)
    if x.isfinite():
        assert torch.equal(halves.join(high, low), x)
        if high.isfinite():
            assert (high.float() - x).abs() <= torch.maximum(x.abs() * 2.0**-8, torch.tensor(1e-40))


BYTES = {"fp32": 8.0, "bf16": 4.0, "int8": 2.1, "int4": 1.1}


@pytest.mark.parametrize("state", STATES)
def test_bytes_of_state_and_what_stays_wide(state: str) -> None:
    big, small = torch.zeros(300, 400, requires_grad=True), torch.zeros(64, requires_grad=True)
    optimizer = stepwell.AdamW([big, small], state=state)
    big.grad, small.grad = torch.ones_like(big), torch.ones_like(small)
    optimizer.step()
    of_small = 2 * 64 * (2 if state == "bf16" else 4)
    assert (optimizer.state_bytes() - of_small) / big.numel() <= BYTES[state]


@pytest.mark.parametrize("first", STATES)
@pytest.mark.parametrize("second", STATES)
@pytest.mark.parametrize("backend", ["eager", "cpu"])
def test_checkpoints_go_between_formats(first: str, second: str, backend: str) -> None:
    params, grads = problem(torch.float32)
    one = leaves(params)
    optimizer = stepwell.AdamW(one, state=first, backend=backend)
    run(optimizer, one, grads[:3])
    saved = copy.deepcopy(optimizer.state_dict())
    two = leaves(one)
    other = stepwell.AdamW(two, state=second, backend=backend)
    other.load_state_dict(saved, keep_formats=True)
    assert other.param_groups[0]["state"] == second
    if first == second:
        run(optimizer, one, grads[3:])
        run(other, two, grads[3:])
        assert_bits_equal(one, two)
        return
    for p in two:
        p.grad = torch.zeros_like(p)
    other.param_groups[0]["lr"] = 0.0
    other.param_groups[0]["betas"] = (0.999999, 0.999999)  # nothing moves: the state is only converted
    other.step()
    for p, q in zip(one, two, strict=True):
        for slot, signed in (("exp_avg", True), ("exp_avg_sq", False)):
            values = []
            for o, tensor in ((optimizer, p), (other, q)):
                name = formats.found_format(o.state[tensor], slot, tensor.numel())
                stored = tuple(o.state[tensor][k] for k in formats.state_names(slot, name))
                values.append(formats.read(name, signed, stored, tensor.numel(), torch.float32))
            scale = values[0].abs().max()
            assert (values[0] - values[1]).abs().max() <= 0.5 * scale  # int4 has one code per octave: a third at most
            if "int4" not in (first, second):
                assert (values[0] - values[1]).abs().max() <= 0.07 * scale


@pytest.mark.parametrize("state", ["int8", "int4"])
def test_codes_of_an_older_version_are_refused(state: str) -> None:
    """Their scales were the largest magnitudes; read as codes of today, moments would be off by a factor."""
    (p,) = leaves([torch.ones(5000)])
    optimizer = stepwell.AdamW([("w", p)], state=state)
    p.grad = torch.randn(5000, generator=torch.Generator().manual_seed(0))
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    optimizer.load_state_dict(saved)
    saved["state"][0]["exp_avg_sq_largest"] *= 0.9
    with pytest.raises(stepwell.UsageError, match="'exp_avg_sq_largest' of the parameter 'w' has scales that are not"):
        optimizer.load_state_dict(saved)


def test_a_saved_format_is_taken_over_unless_told_otherwise() -> None:
    (p,) = leaves([torch.ones(5000)])
    optimizer = stepwell.AdamW([p], state="int8")
    p.grad = torch.ones_like(p)
    optimizer.step()
    (q,) = leaves([torch.ones(5000)])
    other = stepwell.AdamW([q])
    other.load_state_dict(optimizer.state_dict())
    assert other.param_groups[0]["state"] == "int8"


def test_split_low_bits_are_saved_and_loaded() -> None:
    params, grads = problem(torch.bfloat16)
    straight, first = leaves(params), leaves(params)
    run(stepwell.AdamW(straight, weights="split"), straight, grads)
    optimizer = stepwell.AdamW(first, weights="split")
    run(optimizer, first, grads[:3])
    second = leaves(first)
    resumed = stepwell.AdamW(second, weights="split")
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    run(resumed, second, grads[3:])
    assert_bits_equal(straight, second)
