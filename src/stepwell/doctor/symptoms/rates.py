"""Usual learning rates: a small table, (low, high) per optimizer and kind of training."""

from __future__ import annotations

from collections.abc import Mapping

# From 199 published configurations (the project's recipes.json), rounded. The default of Adam and AdamW is the 10th
# percentile to about the 85th of the runs from scratch (53 and 45 rows); that of SGD starts at the lowest of them and
# ends at the 90th of the convolutional networks, because the few higher rates (11.5, 18, 30) stand for other units,
# sums over the batch, or linear probes. Fine-tuning: 10th to 75th percentile of 21 rows of AdamW, 5 of SGD.
# The kinds of RMSprop have 1 or 2 rows each.
_ADAM = {
    "default": (1e-4, 3e-3),
    "transformer": (6e-5, 1e-3),
    "vit": (5e-4, 4e-3),
    "fine-tuning": (1e-5, 1e-4),
    "lora": (1e-4, 5e-4),
    "gan": (1e-4, 4e-4),
    "rl": (1e-4, 1e-3),
    "gnn": (1e-3, 1e-2),
    "diffusion": (1e-4, 3e-4),
}
_PUBLISHED: dict[str, dict[str, tuple[float, float]]] = {
    "Adam": _ADAM,
    "AdamW": _ADAM | {"default": (1e-4, 4e-3)},
    "SGD": {"default": (1e-2, 0.6), "fine-tuning": (1e-3, 2e-2)},
    "RMSprop": {"default": (5e-5, 1e-2), "cnn": (1.6e-2, 0.256), "gan": (5e-5, 2e-4)},
    "LAMB": {"default": (3.5e-4, 8e-3)},
    "LARS": {"default": (0.2, 25.0)},
}

# At most two rows of the recipes name each of these: the range is the default one of the optimizer's own record
# (`facts.lr` in stepwell.optimizers), which a test compares.
_RECORDED: dict[str, tuple[float, float]] = {
    "AdaBelief": (1e-4, 1e-2),
    "Adadelta": (3e-2, 1e1),
    "Adafactor": (1e-3, 1e-1),
    "Adagrad": (1e-3, 3e-1),
    "AdamAtan2": (1e-4, 1e-2),
    "AdamW4bit": (1e-4, 1e-2),
    "AdamW8bit": (1e-4, 1e-2),
    "Adamax": (2e-4, 2e-2),
    "Adan": (3e-4, 3e-2),
    "AdEMAMix": (1e-4, 1e-2),
    "ADOPT": (1e-4, 1e-2),
    "ASGD": (3e-3, 1.0),
    "DAdaptAdam": (0.1, 10.0),
    "LaProp": (1e-4, 1e-2),
    "LBFGS": (0.05, 1.0),
    "Lion": (1e-5, 1e-3),
    "MARS": (1e-4, 3e-2),
    "Muon": (1e-3, 1e-1),
    "NAdam": (1e-4, 1e-2),
    "NovoGrad": (1e-3, 1e-1),
    "Prodigy": (0.1, 10.0),
    "RAdam": (1e-4, 1e-2),
    "Rprop": (1e-4, 1e-1),
    "ScheduleFreeAdamW": (3e-4, 3e-2),
    "ScheduleFreeSGD": (3e-2, 1e1),
    "Shampoo": (1e-4, 1.0),
    "Signum": (1e-5, 1e-3),
    "SOAP": (3e-4, 3e-2),
    "Sophia": (3e-5, 3e-3),
    "SparseAdam": (1e-4, 1e-1),
    "StableAdamW": (1e-4, 1e-2),
    "ASAM": (3e-3, 1.0),
    "Lookahead": (1e-4, 1e-2),
    "SAM": (3e-3, 1.0),
}

USUAL: Mapping[str, Mapping[str, tuple[float, float]]] = _PUBLISHED | {
    name: {"default": span} for name, span in _RECORDED.items()
}

# The step of an element is near lr whatever the size of its gradient.
_ADAM_TYPE = """AdaBelief Adam AdamAtan2 AdamW AdamW4bit AdamW8bit Adamax Adan AdEMAMix ADOPT LaProp MARS NAdam RAdam
SOAP Sophia SparseAdam StableAdamW ScheduleFreeAdamW LAMB Adafactor RMSprop"""
_ADAM_EPS = "Adam AdamW NAdam RAdam Adamax RMSprop LaProp AdEMAMix Adan AdaBelief"
ADAM_TYPE = frozenset(_ADAM_TYPE.split())
ADAM_EPS = frozenset(_ADAM_EPS.split())  # those whose eps is added to the root of an average of squares
GRADIENT_TYPE = frozenset(["SGD", "ASGD", "ScheduleFreeSGD", "SAM", "ASAM"])


def usual(optimizer: str, kind: str | None = None) -> tuple[float, float]:
    """The usual learning rates of an optimizer of the catalogue, (low, high), for a kind of training if known."""
    spans = USUAL[optimizer]
    return spans.get(kind or "default", spans["default"])
