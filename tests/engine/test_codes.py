"""Kernels that convert single slots: bit for bit the definition in `formats`."""

from __future__ import annotations

import math

import pytest
import torch

from stepwell.engine import blocks, formats, randomness
from stepwell.engine.kernels import codes
from stepwell.errors import UsageError
from stepwell.optimizers import find


def values(elements: int, signed: bool) -> torch.Tensor:
    generator = torch.Generator().manual_seed(elements)
    found = torch.randn(elements, generator=generator) * torch.randn(elements, generator=generator).mul(4).exp()
    found[::97] = 0
    found[5:6] = 1e30  # an outlier
    return found if signed else found.square().clamp(max=1e30)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("consumer", [0, 3])
@pytest.mark.parametrize("shape", [(1,), (255,), (256,), (4096,), (70_001,), (130, 577), (9, 64), (65, 129)])
@pytest.mark.parametrize(
    ("name", "signed"), [("int8", True), ("int8", False), ("int4", True), ("int4", False), ("bf16", True)]
)
def test_slots_are_converted_as_defined(
    name: str, signed: bool, shape: tuple[int, ...], consumer: int, threads: int
) -> None:
    before, elements = torch.get_num_threads(), math.prod(shape)
    torch.set_num_threads(threads)
    try:
        like, given, step = torch.empty(shape), values(elements, signed), 1500.0
        ours, expected = (formats.allocate(name, signed, like, 0.0) for _ in range(2))
        codes.write(name, signed, ours, given, consumer, codes.key_of(name, 3, 7, step, consumer), step)
        if name == "bf16":
            key = randomness.stream(randomness.key_of(3, 7, step), consumer // 2)
            word = randomness.random_bits(key, elements, given.device)
            random = word >> 16 if consumer % 2 else word & 0xFFFF
        else:
            random = randomness.code_bits(3, 7, step, consumer, elements, given.device)
        formats.write(name, signed, expected, given, random)
        for one, other in zip(ours, expected, strict=True):
            assert torch.equal(one, other)
        assert torch.equal(
            codes.read(name, signed, ours, elements), formats.read(name, signed, expected, elements, torch.float32)
        )
    finally:
        torch.set_num_threads(before)


CASES: list[tuple[str, dict[str, object]]] = [
    ("Muon", {"momentum": 0.8}),
    ("SOAP", {"precondition_frequency": 2}),
    ("Shampoo", {"momentum": 0.9, "grafting": "adam"}),
    ("Adafactor", {"beta1": 0.9}),
]


@pytest.mark.parametrize("state", ["bf16", "int8", "int4"])
@pytest.mark.parametrize(("name", "options"), CASES)
def test_matrix_rules_have_the_bits_of_the_definition(
    name: str, options: dict[str, object], state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    for by_kernel in (True, False):
        if not by_kernel:
            monkeypatch.setattr(codes, "can", lambda *_: False)
        generator = torch.Generator().manual_seed(0)
        shapes = [(64, 96), (64, 96), (70, 61)]
        parameters = [torch.randn(shape, generator=generator).bfloat16().requires_grad_() for shape in shapes]
        optimizer = find(name)(
            [(f"h.{i}.w", p) for i, p in enumerate(parameters)], state=state, weights="split", **options
        )
        for _ in range(4):
            for p in parameters:
                p.grad = torch.randn(p.shape, generator=generator).bfloat16()
            optimizer.step()
        held = [value for p in parameters for value in optimizer.state[p].values()]
        results.append([*parameters, *held])
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["bf16", "int8", "int4"])
def test_another_number_of_values_is_refused(name: str) -> None:
    """The kernel goes by address, and would write past the end of the slot."""
    stored = formats.allocate(name, True, torch.empty(4096), 0.0)
    with pytest.raises(UsageError, match=r"a rule has returned .* for a slot of"):
        codes.write(name, True, stored, torch.ones(8192), 0, 1, 1.0)


@pytest.mark.parametrize(("name", "signed"), list(blocks.CODES))
def test_the_scale_of_the_largest_numbers_is_a_number(name: str, signed: bool) -> None:
    for value in (1e38, 3e38, torch.finfo(torch.float32).max):
        scales = blocks.CODES[name, signed].scales(torch.full((1, 8), value))
        assert bool((scales > 1e37).all())
        assert bool(scales.isfinite().all())
