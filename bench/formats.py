"""What state codes make of averages whose gradients change: the figures in `engine/formats.py`.

    python bench/formats.py [--steps 6000]

An element's gradient is sigma * (mu + noise) with normal noise. mu is normal of size 0.3 and another one in the second
half; sigma is lognormal over the elements of a block (spread: the standard deviation of its logarithm). Printed, for
the end of the run: of momenta the cosine of the stored with the exact one, and how large the largest element of a block
is against the exact one; of second moments how far the root is off (root mean square, and the mean of relative errors)
and the ratio of the means. Rounding: as the format does it, or to the nearest.

Shorter memories need fewer steps: each run lasts 60 memories, 400 steps at least and --steps at most. About 4 minutes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor

from stepwell.engine import blocks, randomness

ELEMENTS = 4096
BETAS = {True: (0.9, 0.95, 0.98, 0.99, 0.995, 0.9999), False: (0.99, 0.999, 0.9999)}


def run(store: Callable[[Tensor, int], Tensor], beta: float, signed: bool, spread: float, steps: int) -> list[Tensor]:
    """The stored and the exact average."""
    generator = torch.Generator().manual_seed(0)
    sigma = torch.exp(spread * torch.randn(ELEMENTS, generator=generator))
    means = 0.3 * torch.randn(2, ELEMENTS, generator=generator)
    kept, exact = torch.zeros(ELEMENTS), torch.zeros(ELEMENTS)
    for step in range(steps):
        g = sigma * (means[2 * step // steps] + torch.randn(ELEMENTS, generator=generator))
        g = g if signed else g * g
        kept, exact = (average + (1 - beta) * (g - average) for average in (kept, exact))
        kept = store(kept, step)
    return [kept.double(), exact.double()]


def coded(name: str, signed: bool, nearest: bool) -> Callable[[Tensor, int], Tensor]:
    code = blocks.CODES[name, signed]

    def store(values: Tensor, step: int) -> Tensor:
        random = None if nearest else randomness.code_bits(0, 0, step, 0, ELEMENTS, values.device)
        return code.decode(*code.encode(values, random), blocks.Lines(1, ELEMENTS))

    return store


def in_bf16(values: Tensor, step: int) -> Tensor:
    random = randomness.random_bits(randomness.key_of(0, 0, step), ELEMENTS, values.device) & 0xFFFF
    return randomness.round_stochastically(values, random, torch.bfloat16).float()


def described(kept: Tensor, exact: Tensor, signed: bool) -> str:
    if signed:
        tops = exact.view(-1, 128).abs().argmax(dim=1, keepdim=True)
        share = (kept.view(-1, 128).gather(1, tops) / exact.view(-1, 128).gather(1, tops)).mean()
        return f"cosine {float(kept @ exact / (kept.norm() * exact.norm())):.4f}  largest {float(share):.2f}"
    kept, exact = kept.sqrt(), exact.sqrt()
    off, each = (kept - exact).norm() / exact.norm(), (kept / exact - 1).abs().mean()
    return f"root off {float(off):.3f}  each {float(each):.3f}  means {float(kept.mean() / exact.mean()):.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=6000, help="of the longest runs")
    options = parser.parse_args()
    for signed, betas in BETAS.items():
        stores = {
            f"{name} {how}": coded(name, signed, how == "nearest")
            for name in ("int8", "int4")
            for how in ("", "nearest")
        }
        if signed:
            del stores["int4 nearest"]  # a dithered code is
        stores["bf16"] = in_bf16
        for beta in betas:
            for spread in (0.0, 1.0):
                for label, store in stores.items():
                    steps = min(options.steps, max(400, round(60 / (1 - beta))))
                    found = described(*run(store, beta, signed, spread, steps), signed)
                    kind = "signed" if signed else "unsigned"
                    print(f"{kind:<9} beta {beta:<7g} spread {spread:g}  {label:<13}{found}", flush=True)


if __name__ == "__main__":
    main()
