"""What the user fixes, or asks to be fixed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Asked:
    """What the user fixes; None is free. `saying` is a remark in free text, as "the paper used it"."""

    optimizer: str | None = None
    lr: float | None = None
    weight_decay: float | None = None
    nesterov: bool | None = None
    betas: tuple[float, ...] | None = None
    eps: float | None = None
    clip_norm: float | None = None
    micro_batch: int | None = None
    saying: str = ""
