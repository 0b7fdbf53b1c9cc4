"""The error of state codes: Adam's direction from coded moments against float32 ones. Chooses the shifts in formats.py.

    python bench/formats.py [--steps 500]

A block's gradients are g = sigma * (mu + noise), sigma lognormal over the elements of a block (spread: the standard
deviation of its logarithm) and noise with heavy tails. Both runs see the same gradients; printed are the mean error of
the direction relative to its mean size, the mean log ratio of the second moments, and the largest direction relative
to float32's largest. One moment is coded at a time.
"""

from __future__ import annotations

import argparse
import dataclasses

import torch

from stepwell.engine.formats import CODES, Blockwise

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8


def simulate(code: Blockwise, spread: float, steps: int, stochastic: bool) -> tuple[float, float, float]:
    """(error, log ratio, largest) of one code used for the moment that it can hold."""
    generator = torch.Generator().manual_seed(0)
    size = code.block * (4096 // code.block)
    sigma = torch.exp(spread * torch.randn(size, generator=generator))
    mu = 0.3 * torch.randn(size, generator=generator)
    m, v, mq, vq = (torch.zeros(size) for _ in range(4))
    errors, ratios, largest = [], [], []
    for t in range(1, steps + 1):
        noise = torch.randn(size, generator=generator) * torch.exp(0.5 * torch.randn(size, generator=generator))
        g = sigma * (mu + noise)
        m, mq = (x + (1 - BETA1) * (g - x) for x in (m, mq))
        v, vq = (x + (1 - BETA2) * (g * g - x) for x in (v, vq))
        if t > steps // 10:
            exact, coded = (a / (1 - BETA1**t) / ((b / (1 - BETA2**t)).sqrt() + EPS) for a, b in ((m, v), (mq, vq)))
            errors.append(((exact - coded).abs().mean() / exact.abs().mean()).item())
            ratios.append((vq.clamp(min=1e-30) / v).log().mean().item())
            largest.append((coded.abs().max() / exact.abs().max()).item())
        if code.signed:
            mq = _coded(code, mq, generator, stochastic)
        else:
            vq = _coded(code, vq, generator, stochastic)
    return sum(errors) / len(errors), sum(ratios) / len(ratios), max(largest)


def _coded(code: Blockwise, values: torch.Tensor, generator: torch.Generator, stochastic: bool) -> torch.Tensor:
    if stochastic:  # a random shift by up to half a code, then to the nearest
        width = values.abs() * 2.0 ** (code.shift - 23)
        values = values + width * (torch.rand(values.shape, generator=generator) - 0.5)
    return code.decode(*code.encode(values), values.numel())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=500)
    options = parser.parse_args()
    print(f"{'code':<14}{'shift':>6}{'spread':>8}{'rounding':>12}{'error':>8}{'log ratio':>11}{'largest':>9}")
    for (name, signed), chosen in CODES.items():
        for shift in range(chosen.shift - 1, min(chosen.shift + 1, 23) + 1):
            code = dataclasses.replace(chosen, shift=shift)
            for spread in (0.5, 1.0, 1.5):
                for stochastic in (False, True):
                    error, ratio, largest = simulate(code, spread, options.steps, stochastic)
                    label = f"{name} {'signed' if signed else 'unsigned'}"
                    mark = "*" if shift == chosen.shift and not stochastic else " "
                    print(
                        f"{label:<14}{shift:>5}{mark}{spread:>8}{'random' if stochastic else 'nearest':>12}"
                        f"{error:>8.3f}{ratio:>+11.3f}{largest:>9.2f}"
                    )


if __name__ == "__main__":
    main()
