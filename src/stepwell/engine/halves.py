"""A float32 weight as two halves: the 16-bit weight, and the 16 bits lost by rounding (`weights="split"`)."""

from __future__ import annotations

import torch
from torch import Tensor


def join(high: Tensor, low: Tensor) -> Tensor:
    """The float32 number of a bf16 or fp16 number and its int16 low bits.

    Code outside the optimizer that writes a weight (a pruning mask, `clamp_`, `copy_`) writes only the high half. The
    low bits are then those of the previous number. They amount to at most half a unit in the last place of the new
    number, and the step continues from the sum. In two cases the low bits count as 0: if the sum is not a number
    although the high half is one (0 with negative low bits), and if the sum does not round to the high half (an fp16
    weight that was subnormal, whose low bits are wider).
    """
    whole = high.to(torch.float32)
    if high.dtype == torch.bfloat16:
        bits = high.view(torch.int16).to(torch.int32).bitwise_left_shift_(16).add_(low)
        joined = bits.view(torch.float32)
        return torch.where(joined.isnan(), whole, joined)
    joined = whole + low.to(torch.float32) * _residual_unit(whole)
    return torch.where(joined.to(torch.float16) == high, joined, whole)


def split(values: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """float32 as (rounded to the nearest, int16 low bits). `join` gives it back exactly; NaN as some NaN.

    bf16: always. fp16 has fewer exponents: exactly for 2**-16 <= |x| <= 65504, to 2**-40 below.
    """
    if dtype == torch.bfloat16:
        # The GPU's NaN, all ones, would round up to -0. Without NaN nothing leaves the range of 32 bits.
        bits = torch.where(values.isnan(), 0x7FC00000, values.view(torch.int32))
        high = (bits + 0x8000).bitwise_right_shift_(16)  # half is rounded up, so that the low bits always fit
        low = bits.sub_(high << 16)
        return high.to(torch.int16).view(torch.bfloat16), low.to(torch.int16)
    half = values.to(torch.float16)
    residual = (values - half.to(torch.float32)) / _residual_unit(half.to(torch.float32))
    return half, torch.where(residual.isfinite(), residual, 0.0).round().to(torch.int16)


def _residual_unit(half: Tensor) -> Tensor:
    """Half of a unit in the last place of an fp16 number, at least 2**-39; a power of two."""
    exponent = ((half.view(torch.int32) >> 23) & 0xFF).clamp(min=127 - 15)
    return ((exponent - 24) << 23).view(torch.float32)
