"""Rules that carry a setting to another batch size, world size or width, with their limits.

| setting | rule | source |
|---|---|---|
| lr of SGD with momentum, RMSprop | in proportion to the batch size | Goyal et al., 1706.02677; timm |
| lr of Adam-type optimizers, LAMB, LARS | with the square root of the batch size | 2205.10287; 1904.00962 |
| warmup | the same number of samples | reference points of Llama 3.1 405B in MLPerf |
| beta2 | the same half-life in samples: beta2 ^ (new / old) | 2507.07101 |
| weight decay | the timescale 1 / (lr * weight_decay) in epochs stays | 2405.13698 |
| width | lr of matrices of Adam-type optimizers with 1 / width | muP, 2203.03466 |
| lr, tuned in MLPerf | exponents from 0 to 1, median 0.44 over 10 benchmarks | MLPerf's reference points |
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from stepwell.advisor.published import Published
from stepwell.advisor.situation import Situation, of_published

FARTHEST = 8.0  # times the batch size: beyond, published rules were not confirmed

# Kinds of optimizers whose lr grows in proportion to the batch size; for all others with its square root. Adagrad's
# does not depend on it: 0.004 from 32k to 160k (DLRM-DCNv2).
# LARS: MLPerf's reference points of ResNet-50 grow with the power 0.3 from 1,632 to 65,536.
_EXPONENTS = {"sgd": 1.0, "rmsprop": 1.0, "adagrad": 0.0, "prodigy": 0.0, "l-bfgs": 0.0}

# Families whose published rates do not follow the batch size: from pix2pix (batch 1) to BigGAN (256) the rate is
# 1e-4 to 2e-4; adapters have one rate for batches from 8 to 32; rates in reinforcement learning follow the environment.
FIXED = ("gan", "rl", "gnn", "diffusion", "speech_audio", "recsys", "fine_tuning")


@dataclass(frozen=True)
class Scaled:
    """A value that was scaled, and the rule in words; `warning` is empty within the limits of the rule."""

    value: float
    words: str
    warning: str = ""


def exponent(kind: str) -> float:
    """The power of the batch size that the lr of this kind of optimizer grows with.

    >>> exponent("sgd"), exponent("adam")
    (1.0, 0.5)
    """
    return _EXPONENTS.get(kind, 0.5)


def lr(value: float, kind: str, old: float, new: float) -> Scaled:
    """The learning rate at another batch size.

    >>> lr(0.1, "sgd", 256, 1024).value, lr(1e-3, "adam", 256, 1024).value
    (0.4, 0.002)
    """
    power, ratio = exponent(kind), new / old
    name = {1.0: "in proportion to the batch size", 0.5: "with the square root of the batch size"}.get(power, "")
    words = f"{value:.3g} times {ratio:.3g}^{power:g}: {name}" if name else "does not depend on the batch size"
    return Scaled(value * ratio**power, words, far(ratio))


def far(ratio: float) -> str:
    """The warning about a change of the batch size beyond the limits of the rules; empty within them."""
    times = max(ratio, 1 / ratio)
    if times <= FARTHEST * (1 + 1e-9):
        return ""
    return (
        f"the batch size changes {times:.3g} times; published rules hold up to about {FARTHEST:g} times: "
        "search the learning rate again (stepwell.find_lr) before a long run"
    )


def warmup(steps: float, old: float, new: float) -> int:
    """The warmup that sees as many samples at another batch size.

    >>> warmup(2000, 2304, 4608)
    1000
    """
    return max(1, round(steps * old / new)) if steps else 0


def beta2(value: float, old: float, new: float) -> float:
    """The beta2 whose half-life is as many samples at another batch size.

    >>> round(beta2(0.999, 256, 1024), 4)
    0.996
    """
    return value ** (new / old)


def decay_timescale(lr: float, weight_decay: float, batch: float, samples: float | None) -> str:
    """The timescale of decoupled weight decay in words: 1 / (lr * weight_decay) steps, in epochs if known."""
    steps = 1 / (lr * weight_decay)
    epochs = "" if not samples else f", {steps * batch / samples:.3g} epochs"
    return f"{steps:,.0f} steps{epochs}"


def brought(row: Published, one: Situation, kind: str) -> tuple[float, str] | None:
    """The log of a published learning rate at the batch size of a situation, and what was done, in words.

    None for a rate that is a base or a factor: it is no rate that an optimizer gets. A rate whose batch size is per
    device is never scaled. The batch size counts as at most 8 times larger or smaller.
    """
    if row.lr is None or row.lr <= 0 or not row.lr_is_peak:
        return None
    rate = math.log(row.lr)
    if row.batch_size is not None and not row.batch_is_global:
        return rate, "its batch size is per device, not scaled"
    mine, its = one.batch_in_samples, of_published(row).batch_in_samples
    if not mine or not its or one.family in FIXED:
        return rate, ""
    return rate + step(kind, mine / its), "" if 0.9 < mine / its < 1.1 else f"from batch {its:g}"


def step(kind: str, ratio: float) -> float:
    """What the log of the lr gains if the batch size grows by `ratio`, at most 8 times either way."""
    return exponent(kind) * max(-math.log(FARTHEST), min(math.log(FARTHEST), math.log(ratio)))
