"""AdamW with its state in 8 or 4 bits per element, under the names that people look for.

The rule is AdamW's; the codes and their blocks are those of `engine/formats.py`.
"""

from __future__ import annotations

from stepwell.engine import OptionsButState, Params, Unpack
from stepwell.engine.options import State
from stepwell.optimizers.adamw import AdamW


class AdamW8bit(AdamW):
    """AdamW with `state="int8"`: 2 bytes of state per element instead of 8.

    For models whose optimizer state does not fit; final losses are those of AdamW. Tensors with fewer than 4,096
    elements keep fp32. Against AdamW: the same lr, and every other argument the same.

    Args:
        params, options: as for every optimizer (see `stepwell.Optimizer`).
        lr, betas, eps, weight_decay, amsgrad, state: as for `AdamW`.

    Reference: Dettmers et al., "8-bit optimizers via block-wise quantization", arXiv 2110.02861, section 2. Codes are
    fourth roots relative to a scale of a block of 256, rounded with the right mean, not the paper's dynamic tree over
    2,048 to the nearest.

    >>> optimizer = AdamW8bit(model.parameters(), lr=3e-4, weight_decay=0.1)
    """

    def __init__(
        self, params: Params, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 1e-2, amsgrad: bool = False, state: State = "int8", **options: Unpack[OptionsButState],
    ) -> None:  # fmt: skip
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, **options, state=state)


class AdamW4bit(AdamW):
    """AdamW with `state="int4"`: 1 byte of state per element instead of 8.

    For fine-tuning where even 8 bits are too many; a little worse than AdamW on long runs from scratch. Tensors with
    fewer than 4,096 elements keep fp32, and with beta1 above 0.9 the momentum is int8. Against AdamW: the same lr, and
    every other argument the same.

    Args:
        params, options: as for every optimizer (see `stepwell.Optimizer`).
        lr, betas, eps, weight_decay, amsgrad, state: as for `AdamW`.

    Reference: Li, Chen, Zhu, "Memory efficient optimizers with 4-bit states", arXiv 2309.01507, section 3. Blocks of
    128 as there; zero is excluded from the second moment as there; one scale per block, not per row and column.

    >>> optimizer = AdamW4bit(model.parameters(), lr=1e-4)
    """

    def __init__(
        self, params: Params, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 1e-2, amsgrad: bool = False, state: State = "int4", **options: Unpack[OptionsButState],
    ) -> None:  # fmt: skip
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, **options, state=state)
