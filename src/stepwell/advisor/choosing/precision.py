"""Precision of the forward and backward pass, and the format of the optimizer's state."""

from __future__ import annotations

from stepwell.advisor.choice import Choice
from stepwell.advisor.choosing.ground import Ground
from stepwell.advisor.published import kind_of

_FULL = ("gnn", "rl", "scientific_inverse", "tabular_timeseries", "recsys")
_BYTES = {"adam": 8, "lamb": 8, "sgd": 4, "lars": 4, "rmsprop": 4, "lion": 4, "muon": 4}  # of fp32 state per parameter
_GIB = 2**30


def choose(ground: Ground, optimizer: str) -> dict[str, Choice]:
    """precision ("bf16" or "fp32") and state ("fp32" or "int8")."""
    one, kind = ground.situation, kind_of(optimizer)
    if one.family in _FULL:
        precision = Choice(
            "fp32", "small models, and sums over large ranges: mixed precision saves little", (), "medium"
        )
    else:
        precision = Choice(
            "bf16",
            "autocast to bf16 on a device that has it: half the activations, the range of fp32, no GradScaler. "
            "Mixed precision is no cure for a loss that explodes",
            (),
            "medium",
            "a device without bf16: fp16 with a GradScaler, or fp32",
        )
    return {"precision": precision, "state": _state(one.memory, one.params, one.devices, kind)}


def _state(memory: float | None, params: float | None, devices: int, kind: str) -> Choice:
    if memory is None or not params:
        return Choice("fp32", "nothing is known about memory", (), "medium", "memory: give memory= in GiB per device")
    need = params * (8 + _BYTES.get(kind, 8)) / _GIB
    if need <= 0.8 * memory * devices or kind not in ("adam", "lion", "sgd", "rmsprop", "lamb", "lars"):
        return Choice("fp32", f"weights, gradients and state take {need:.3g} GiB of {memory * devices:g}", (), "high")
    smaller = params * (8 + _BYTES.get(kind, 8) / 4) / _GIB
    return Choice(
        "int8",
        f"weights, gradients and fp32 state take {need:.3g} GiB of {memory * devices:g}; with int8 state "
        f"{smaller:.3g} GiB. "
        "Hyperparameters stay the same",
        ("bitsandbytes documentation: same hyperparameters, embeddings in 32 bits, small tensors in 32 bits",),
        "medium",
        "more memory or devices",
    )
