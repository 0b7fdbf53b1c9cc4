"""The loss of one batch along the update of this batch: does the step lower it, and how much longer could the step be?

Everything is put back afterwards, bit for bit: weights, buffers, gradients, modes and random numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from stepwell.doctor.program import Program
from stepwell.doctor.record import Probe
from stepwell.doctor.untouched import put_back, untouched

SHORTER = (0.3, 0.1, 0.03, 0.01, 0.001)
LONGER = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
MOST_BYTES = 2**31  # of weights: two copies are held meanwhile
_SAME = 1e-3  # a loss that comes out otherwise at unchanged weights was not computed from them alone


def probe(
    told: Sequence[tuple[torch.Tensor, float, Program]], before: Sequence[torch.Tensor],
    weights: Sequence[torch.Tensor], models: Sequence[nn.Module], step: int, optimizer: int,
) -> Probe | None:  # fmt: skip
    """The losses at multiples of the update from `before` to the weights of now; None where they cannot be computed."""
    after = [weight.detach().clone() for weight in weights]
    losses: dict[float, float] = {}
    seen = sum(value for _, value, _ in told)
    with untouched(models) as buffers:

        def at(multiple: float) -> float:
            with torch.no_grad():
                for weight, first, last in zip(weights, before, after, strict=True):
                    weight.copy_(
                        first if multiple == 0 else last if multiple == 1 else torch.lerp(first, last, multiple)
                    )
            put_back(buffers)
            losses[multiple] = sum(program.again(loss) for loss, _, program in told)
            return losses[multiple]

        try:
            start = at(0.0)
            if not math.isfinite(start) or abs(start - seen) > _SAME * max(abs(seen), 1e-6):
                return None
            end = at(1.0)
            if end == start:
                return None
            if end < start:
                lowest = end
                for multiple in LONGER:
                    value = at(multiple)
                    if not value < lowest:
                        break
                    lowest = value
            else:
                for multiple in SHORTER:
                    if at(multiple) < start:
                        break
        except Exception:  # whatever the user's code raises when it is called again: then there is no probe
            return None
        finally:
            with torch.no_grad():
                for weight, last in zip(weights, after, strict=True):
                    weight.copy_(last)
    return Probe(step, optimizer, losses)
