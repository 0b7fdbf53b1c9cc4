"""AdamW with its state in 8 or 4 bits per element, under the names by which other libraries know it.

The rule is AdamW's; `engine/formats.py` describes the codes and their blocks.
"""

from __future__ import annotations

from stepwell.engine import OptionsButState, Params, Unpack
from stepwell.engine.options import State
from stepwell.optimizers.adamw import AdamW


class AdamW8bit(AdamW):
    """AdamW with `state="int8"`: 2 bytes of state per element instead of 8.

    Use it for models whose optimizer state does not fit in memory; final losses are those of AdamW. Tensors with fewer
    than 4,096 elements keep fp32. Against AdamW: the same lr, and every other argument the same.

    Args:
        params, options: as for every optimizer (see `stepwell.Optimizer`).
        lr, betas, eps, weight_decay, amsgrad, state: as for `AdamW`.

    Reference: Dettmers et al., "8-bit optimizers via block-wise quantization", arXiv 2110.02861, section 2. Codes are
    fourth roots relative to the scale of a block of 256 elements, with unbiased stochastic rounding. The paper has a
    dynamic tree over blocks of 2,048, rounded to the nearest.

    >>> optimizer = AdamW8bit(model.parameters(), lr=3e-4, weight_decay=0.1)
    """

    def __init__(
        self, params: Params, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 1e-2, amsgrad: bool = False, state: State = "int8", **options: Unpack[OptionsButState],
    ) -> None:  # fmt: skip
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, **options, state=state)


class AdamW4bit(AdamW):
    """AdamW with `state="int4"`: 1 byte of state per element instead of 8.

    Use it for fine-tuning where even 8 bits are too many; it is a little worse than AdamW on long runs from scratch.
    Tensors with fewer than 4,096 elements keep fp32, and with beta1 above 0.9 the momentum is int8. Against AdamW: the
    same lr, and every other argument the same.

    Args:
        params, options: as for every optimizer (see `stepwell.Optimizer`).
        lr, betas, eps, weight_decay, amsgrad, state: as for `AdamW`.

    Reference: Li, Chen, Zhu, "Memory efficient optimizers with 4-bit states", arXiv 2309.01507, section 3. As in the
    paper, blocks have 128 elements and zero is excluded from the second moment. Unlike in the paper, a block has one
    scale, not one per row and column.

    >>> optimizer = AdamW4bit(model.parameters(), lr=1e-4)
    """

    def __init__(
        self, params: Params, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 1e-2, amsgrad: bool = False, state: State = "int4", **options: Unpack[OptionsButState],
    ) -> None:  # fmt: skip
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, **options, state=state)
