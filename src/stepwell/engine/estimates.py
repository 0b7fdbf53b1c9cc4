"""Averages an estimate that is made outside the update (the diagonal of a Hessian) into a slot, in every format."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stepwell.engine import formats, memory_order, randomness
from stepwell.engine.rule import argument

if TYPE_CHECKING:
    from stepwell.engine.optimizer import Optimizer


@torch.no_grad()
def average_into(
    optimizer: Optimizer, slot: str, beta: str, estimates: Mapping[Tensor, Tensor], found_inf: Tensor | None
) -> None:
    """slot <- beta * slot + (1 - beta) * estimate, for every parameter that has an estimate of its shape.

    Where `found_inf` is not 0, and where any number of any estimate is not finite, no slot changes a bit. Nothing
    waits for a GPU, except for slots in bf16, int8 and int4: their random bits depend on the step.

    Args:
        slot: its name. A parameter without state gets this slot, filled with zeros.
        beta: the hyperparameter, as a rule names it ("beta2").
    """
    optimizer.bring_back()
    estimates = {p: value.to_dense() if value.is_sparse else value for p, value in estimates.items()}
    dropped = _any_not_finite(estimates.values(), found_inf)
    for group in optimizer.param_groups:
        weight = 1 - argument(beta, group)
        for place, p in enumerate(group["params"]):
            if p not in estimates or p.numel() == 0:
                continue
            state = optimizer.watched_state(p)
            if slot not in state:
                state["step"] = torch.zeros(())
                dtype = formats.working_dtype(formats.format_of(p, "a parameter"))
                state[slot] = torch.zeros_like(p, dtype=dtype, requires_grad=False)
            name = formats.found_format(state, slot, p.numel())
            stored = tuple(state[key] for key in formats.state_names(slot, name))
            old = formats.read(name, True, stored, p.numel(), torch.promote_types(p.dtype, torch.float32))
            estimate = memory_order.flat(torch.empty_like(p, dtype=old.dtype).copy_(estimates[p]))
            new = torch.where(dropped.to(p.device), old, old + weight * (estimate - old))
            random, kept = None, []
            if name == "bf16":  # a stream that no slot of the update has
                key = randomness.key_of(group["seed"], place, float(state["step"]))
                stream = randomness.stream(key, len(optimizer.slots))
                random = randomness.random_bits(stream, p.numel(), p.device) & 0xFFFF
            elif name in ("int8", "int4"):
                numbers = group["seed"], place, float(state["step"]), len(optimizer.slots)
                random = randomness.code_bits(*numbers, p.numel(), p.device)
                kept = [tensor.clone() for tensor in stored]
            formats.write(name, True, stored, new, random)
            for tensor, codes in zip(stored, kept, strict=False):  # encoding decoded values may give other codes
                tensor.copy_(torch.where(dropped.to(p.device), codes, tensor))


def _any_not_finite(values: Collection[Tensor], found_inf: Tensor | None) -> Tensor:
    """A flag on the device of the first value: whether any number is not finite, or `found_inf` is set."""
    flags = [~torch.isfinite(value).all() for value in values]
    if found_inf is not None:
        flags.append(found_inf.reshape(()) != 0)
    return torch.stack([flag.to(flags[0].device) for flag in flags]).any() if flags else torch.tensor(False)
