"""Cases for any number of processes: with given gradients, 20 updates with clipping are those of one process, bit for
bit, however the parameters are cut."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from stepwell.optimizers import TABLE, find

# even and uneven rows, a matrix of more than 4,096 elements whose rows end inside a block, fewer rows than processes, a
# vector
SHAPES = ((8, 6), (7, 5), (61, 70), (2, 9), (11,))
STEPS = 20
FORMATS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16 state": {"state": "bf16"},
    "split": {"weights": "split"},
    "stochastic": {"weights": "stochastic", "state": "bf16"},
    "int8": {"state": "int8"},
    "int4": {"state": "int4"},
}


def names() -> list[str]:
    """The optimizers of single elements, of sums over tensors or over the run, and of matrices."""
    found = []
    for name in TABLE:
        cls = find(name)
        if not hasattr(cls, "signatures") or getattr(cls, "needs_closure", False) or cls.takes_estimates:
            continue
        found.append(cls.__name__)
    return found


def start(format_: str) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    dtype = torch.bfloat16 if format_ in ("split", "stochastic") else torch.float32
    return [torch.randn(shape, generator=generator).to(dtype) for shape in SHAPES]


def gradients(number: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1 + number)
    return [3 * torch.randn(shape, generator=generator).to(dtype) for shape in SHAPES]


def layout(how: str) -> tuple[Any, list[Any]]:
    """The mesh and the placements of each parameter."""
    count = dist.get_world_size()
    if how == "rows":
        return init_device_mesh("cpu", (count,)), [[Shard(0)]] * len(SHAPES)
    if how == "hybrid":  # HSDP: replicated over one dimension, cut over the other
        return init_device_mesh("cpu", (2, count // 2)), [[Replicate(), Shard(0)]] * len(SHAPES)
    if how == "both":  # FSDP and tensor parallelism: cut over both, in different dimensions
        columns = [[Shard(0), Shard(1)] if len(shape) == 2 else [Shard(0), Replicate()] for shape in SHAPES]
        return init_device_mesh("cpu", (2, count // 2)), columns
    mixed = [[Shard(0)], [Shard(1)], [Replicate()], [Shard(0)], [Shard(0)]]
    return init_device_mesh("cpu", (count,)), mixed


def trained(name: str, format_: str, how: str | None) -> list[Tensor]:
    """The weights after 20 updates; in one process where `how` is None."""
    parameters = []
    mesh, placements = (None, [None] * len(SHAPES)) if how is None else layout(how)
    for tensor, place in zip(start(format_), placements, strict=True):
        parameters.append(nn.Parameter(tensor if mesh is None else distribute_tensor(tensor, mesh, place)))
    optimizer = find(name)([(f"p{i}", p) for i, p in enumerate(parameters)], **FORMATS[format_])
    for number in range(STEPS):
        for p, gradient in zip(parameters, gradients(number, parameters[0].dtype), strict=True):
            p.grad = distribute_tensor(gradient, p.device_mesh, p.placements) if isinstance(p, DTensor) else gradient
        with optimizer.gathered() as step:
            norm = float(step.norm())
            step.update(min(1.0, 5.0 / (norm + 1e-6)), None)
    return [(p.full_tensor() if isinstance(p, DTensor) else p).detach().clone() for p in parameters]


def case(name: str, format_: str, how: str) -> list[Tensor]:
    torch.manual_seed(0)
    return trained(name, format_, how)


def cases(layouts: dict[str, list[str]]) -> dict[str, Callable[[], Any]]:
    """The optimizers with the formats of each layout."""
    return {
        f"{name}, {format_}, {how}": partial(case, name, format_, how)
        for how, formats in layouts.items()
        for format_ in formats
        for name in names()
        if is_tried(name, format_) and (how in ("rows", "hybrid") or name not in CODED)
    }


def is_tried(name: str, format_: str) -> bool:
    """Whether the tests take an optimizer in a format: all were tried, and a kernel takes a second to compile."""
    return format_ == "fp32" or name in (SAMPLE_OF_CODES if format_ in ("int8", "int4") else SAMPLE)


SAMPLE_OF_CODES = ("AdamW", "SGD", "LAMB", "Prodigy", "Muon", "SOAP")
SAMPLE = ("AdamW", "Lion", "SGD", "LAMB", "NAdam", "Prodigy", "Muon", "SOAP", "Shampoo", "Adafactor")
THREE: dict[str, list[str]] = {"rows": list(FORMATS), "mixed": [f for f in FORMATS if not f.startswith("int")]}
FOUR: dict[str, list[str]] = {"hybrid": ["fp32", "stochastic", "int8"], "both": THREE["mixed"]}
# Blocks end with rows: parts of the columns, which are no whole blocks here, have others.
CODED = ("AdamW8bit", "AdamW4bit")
