"""AdamW: Adam with weight decay outside the adaptive step: each step shrinks the weights by lr * weight_decay.

exp_avg, exp_avg_sq, direction as in Adam
p <- p - lr * weight_decay * p - lr * direction
"""

from __future__ import annotations

from stepwell.engine import Optimizer, Options, Params, Unpack, hyperparameters
from stepwell.optimizers.adam import Adam, update
from stepwell.optimizers.facts import PUBLISHED_ADAM, Facts
from stepwell.optimizers.memory import BOTH_MEANS


class AdamW(Optimizer):
    """AdamW, the standard for transformers and the first optimizer to try elsewhere.

    Cost: two slots (8 bytes per element in fp32). Every lr and weight decay of another optimizer is stated relative to
    this.

    Args:
        params, options: as for every optimizer (see `stepwell.Optimizer`).
        lr: learning rate, at least 0: about the size of each element's step.
        betas: decay rates (beta1, beta2) of the two averages, each in [0, 1). Language models are trained with beta2
            0.95.
        eps: added to the denominator for numerical stability, at least 0.
        weight_decay: at least 0; each step shrinks the weights by lr * weight_decay.
        amsgrad: divide by the largest second moment so far; one more slot.

    Reference: Loshchilov, Hutter, "Decoupled weight decay regularization", arXiv 1711.05101, algorithm 2. The paper
    multiplies the weight decay by the schedule's factor only; here, as in torch, it is multiplied by lr.

    >>> optimizer = AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1)
    """

    rule, slots, decay = update, Adam.slots, "decoupled"
    memory = BOTH_MEANS
    facts = Facts(
        lr={"default": (1e-4, 1e-2), "cnn": (3e-4, 1e-1), "transformer": (1e-4, 1e-2), "toy": (1e-3, 1.0)},
        source="Touvron et al. 2012.12877 (DeiT 1e-3 at 1024), Liu et al. 2201.03545 (ConvNeXt 4e-3 at 4096), Brown et "
        "al. 2005.14165 (6e-4 at 125M), Wen et al. 2509.02046 (8e-3 at 130M); fine-tuning takes less (1e-5)",
        needs_warmup=True,
        published={"default": (1e-4, 4e-3), **PUBLISHED_ADAM},  # 10th percentile to about the 85th of 45 runs
    )

    def __init__(
        self, params: Params, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 1e-2, amsgrad: bool = False, **options: Unpack[Options],
    ) -> None:  # fmt: skip
        super().__init__(params, hyperparameters(locals()), options)
