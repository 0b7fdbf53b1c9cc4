"""From one optimizer to another: published conversions, each with its source.

A conversion starts from the settings of AdamW (or of Adam-type optimizers) for the same training. Where no rule was
published, there is no conversion: from SGD to Adam-type optimizers and back, the learning rate must be searched.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Conversion:
    """Settings of an optimizer from those of AdamW.

    Args:
        to: the optimizer of stepwell. lr, low, high: the learning rate as a multiple of AdamW's (or, with `fixed`, as
            itself) and its range. decay: the weight decay as a multiple; `decay_fixed`: as itself.
        options: further arguments of the optimizer. words: the rule. source: where it was published.
    """

    to: str
    lr: float
    low: float
    high: float
    words: str
    source: str
    fixed: bool = False
    decay: float = 1.0
    decay_fixed: float | None = None
    options: tuple[tuple[str, object], ...] = ()
    schedule: str | None = None


CONVERSIONS: dict[str, Conversion] = {
    conversion.to: conversion
    for conversion in (
        Conversion("Lion", 0.2, 0.1, 1 / 3, "lr of AdamW divided by 3 to 10, weight decay times 3 to 10; betas 0.9, "
                                            "0.99 "
                   "(language models 0.95, 0.98); prefers large batches", "google/automl, README of Lion", decay=5.0),
        Conversion("Muon", 1.0, 0.5, 2.0, "AdamW's lr and weight decay with updates scaled by 0.2 * sqrt(max(rows, "
                   "columns)); with the original scale an own lr of about 0.02", "2502.16982; torch.optim.Muon",
                   options=(("adjust_lr_fn", "match_rms_adamw"),)),
        Conversion("SOAP", 1.0, 0.5, 3.0, "starts from Adam's lr, betas and weight decay, without grafting; "
                   "precondition_frequency up to the cost", "facebookresearch/optimizers, README"),
        Conversion("Shampoo", 1.0, 0.5, 2.0, "graft from Adam: the same lr, betas and weight decay, eps 1e-12",
                   "facebookresearch/optimizers, README",
                   options=(("grafting", "adam"), ("beta1", 0.9), ("beta2", 0.999), ("eps", 1e-12))),
        Conversion("Adan", 7.0, 5.0, 10.0, "lr 5 to 10 times AdamW's, weight decay 0.02",
                   "optimi's documentation, which quotes the paper", decay_fixed=0.02),
        Conversion("Sophia", 1.0, 0.5, 1.0, "choose rho so that rho * lr * batch size is about half of AdamW's lr; "
                                            "tune "
                   "rho until 10 to 50 % of the elements are not clipped", "Liuhong99/Sophia, README"),
        Conversion("ScheduleFreeAdamW", 3.0, 1.0, 10.0, "lr 1 to 10 times AdamW's, without a schedule after the "
                                                        "warmup; "
                   "optimizer.train() and .eval() are needed", "facebookresearch/schedule_free, README",
                   schedule="constant"),
        Conversion("ScheduleFreeSGD", 1.0, 1.0, 1.0, "lr 10 to 50 times that of SGD with a schedule",
                   "facebookresearch/schedule_free, README", schedule="constant"),
        Conversion("AdamW8bit", 1.0, 1.0, 1.0, "the same hyperparameters; embeddings keep 32 bits; about 75 % less "
                                               "state",
                   "bitsandbytes documentation"),
        Conversion("AdamW4bit", 1.0, 1.0, 1.0, "the same hyperparameters as AdamW",
                   "bitsandbytes documentation, for 8 bits"),
        Conversion("Prodigy", 1.0, 1.0, 1.0, "lr is a multiplier and stays 1.0; the schedule only decays",
                   "ZFTurbo/Music-Source-Separation-Training, Apollo", fixed=True),
        Conversion("Adafactor", 1e-3, 1e-4, 1e-3, "lr 1e-3 with scale_parameter, relative_step and warmup_init off, "
                   "clip threshold 1, and no other clip", "transformers documentation", fixed=True, decay_fixed=0.0,
                   options=(("variant", "shazeer"), ("scale_parameter", False), ("relative_step", False))),
    )
}  # fmt: skip


def conversion(to: str) -> Conversion | None:
    """The published conversion from AdamW to this optimizer, or None."""
    return CONVERSIONS.get(to)
