"""Random bits for rounding: a function of a seed, of the place of a tensor among all, of its step and of the place of
an element, the same on every backend.

The place of an element is that in the whole tensor: the parts of a sharded parameter are rounded as in one process."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

SEED_FACTOR, PLACE_FACTOR, ELEMENT_FACTOR = 0x85EBCA6B, 0xC2B2AE35, 0x9E3779B1


def key_of(seed: int, place: int, step: float, first: int = 0) -> int:
    """32 bits that differ from tensor to tensor and from step to step. `first` is the place in the whole tensor of the
    first element here."""
    key = mix((seed * SEED_FACTOR + place * PLACE_FACTOR + int(step) * 0x27D4EB2F) & 0xFFFFFFFF)
    return (key + first * ELEMENT_FACTOR) & 0xFFFFFFFF


def salts(seeds: np.ndarray, places: np.ndarray, firsts: np.ndarray) -> np.ndarray:
    """For kernels, int64 (tensors,): what `key_of` scatters, without the step, in the lower 32 bits, and what is added
    afterwards in the upper ones."""
    lower = (seeds * SEED_FACTOR + places * PLACE_FACTOR) & 0xFFFFFFFF
    upper = np.array([int(first) * ELEMENT_FACTOR & 0xFFFFFFFF for first in firsts], dtype=np.uint64)
    return (lower.astype(np.uint64) | upper << np.uint64(32)).view(np.int64)


def stream(key: int, number: int) -> int:
    """The key of another, independent sequence of random bits of the same tensor and step."""
    return (key + number * 0x165667B1) & 0xFFFFFFFF


def mix(x: Any) -> Any:
    """Scatter 32 bits: the constants of lowbias32 (C. Wellons, hash-prospector, 2018). For ints and int64 tensors."""
    x = (x ^ (x >> 16)) * 0x7FEB352D & 0xFFFFFFFF
    x = (x ^ (x >> 15)) * 0x846CA68B & 0xFFFFFFFF
    return x ^ (x >> 16)


def mix_once(x: Any) -> Any:
    """Half of `mix`, for rounding, whose kernels are bound by arithmetic. Neighbors, steps and the two halves of a word
    are as independent as with `mix` (65,536 elements, 64 distances; 16,384 steps).

    The factor is the second of the two: the first is almost 2**31, and of a scale that creeps by some ulps a step it
    makes almost the same numbers (over 2,000 steps, the mean of dithered codes is then 0.28 of a code off; 0.08 here,
    as with the whole of `mix`).
    """
    x = mix_upper(x)
    return x ^ (x >> 15)


def mix_upper(x: Any) -> Any:
    """The same for those who take only upper bits, which the rest of it hardly changes."""
    return (x ^ (x >> 16)) * 0x846CA68B & 0xFFFFFFFF


def random_bits(
    key: int, elements: int, device: torch.device, scatter: Any = mix_once, rows: tuple[int, int] | None = None
) -> Tensor:
    """32 random bits per element, int64, for rounding; estimates take `mix`. `rows` are those of
    `sharding.rows_here`."""
    place = torch.arange(elements, dtype=torch.int64, device=device)
    if rows is not None:
        place = place + place // rows[0] * rows[1]
    return scatter((place * ELEMENT_FACTOR + key) & 0xFFFFFFFF)


TURN = 40503  # 2**16 times the golden ratio's fraction: multiples of it fill [0, 2**16) evenly, however many there are

TURNS = 10  # after 2**10 steps they begin elsewhere, so that nothing periodic in the gradients stays in step with them

CODE_STREAMS = 64  # streams of 16-bit formats come before


def code_bits(
    seed: int,
    place: int,
    step: float,
    consumer: int,
    elements: int,
    device: torch.device,
    first: int = 0,
    rows: tuple[int, int] | None = None,
) -> Tensor:
    """16 random bits per element for rounding to codes: over the steps they are spread more evenly than by chance.

    A code changes at one step in hundreds, with the right probability. By chance such changes bunch: the root of a
    second moment is then 4.9 % off, and 4.1 % with even ones.
    """
    key = stream(key_of(seed, place, int(step) >> TURNS, first), CODE_STREAMS + consumer // 2)
    word = random_bits(key, elements, device, rows=rows)
    return ((word >> 16 if consumer % 2 else word) + int(step) * TURN) & 0xFFFF


def round_stochastically(values: Tensor, random: Tensor, dtype: torch.dtype) -> Tensor:
    """Round float32 up or down to `dtype` so that the mean is right; `random` has 16 bits per element."""
    if dtype == torch.bfloat16:
        # Adding 16 random bits carries into the kept half with just the probability of the lost half.
        # Infinity has nothing to lose, and stays; NaN could become a number.
        bits = (values.view(torch.int32).to(torch.int64) & 0xFFFFFFFF) + torch.where(values.isnan(), 0, random)
        rounded = (bits >> 16) & 0xFFFF
        return torch.where(rounded >= 0x8000, rounded - 0x10000, rounded).to(torch.int16).view(torch.bfloat16)
    # fp16: a uniform shift by up to half of the spacing of fp16 numbers (subnormal ones too), then to the nearest.
    exponent = ((values.view(torch.int32) >> 23) & 0xFF).clamp(min=127 - 14)
    spacing = ((exponent - 10) << 23).view(torch.float32)
    shift = (random.to(torch.float32) + 0.5) * 2.0**-16 - 0.5
    return (values + shift * spacing).to(torch.float16)
