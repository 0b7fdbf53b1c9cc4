"""SparseAdam: Adam on the rows that a sparse gradient contains, and no others ("lazy" Adam).

For these rows:
exp_avg    <- beta1 * exp_avg    + (1 - beta1) * g
exp_avg_sq <- beta2 * exp_avg_sq + (1 - beta2) * g * g
p          <- p - lr * sqrt(1 - beta2**t) / (1 - beta1**t) * exp_avg / (sqrt(exp_avg_sq) + eps)
"""

from __future__ import annotations

from stepwell.engine import Optimizer, Options, Params, Unpack, hyperparameters
from stepwell.ops import ema, ema_square, sqrt
from stepwell.optimizers.adam import Adam
from stepwell.optimizers.facts import Facts
from stepwell.optimizers.memory import BOTH_MEANS
from stepwell.optimizers.pieces import bias_correction


def update(g, p, t, exp_avg, exp_avg_sq, *, beta1, beta2, eps):
    exp_avg = ema(exp_avg, g, beta1)
    exp_avg_sq = ema_square(exp_avg_sq, g, beta2)
    return bias_correction(beta1, beta2, t) * (exp_avg / (sqrt(exp_avg_sq) + eps)), exp_avg, exp_avg_sq


class SparseAdam(Optimizer):
    """SparseAdam: for large embeddings with `sparse=True`, in the form of torch.optim.SparseAdam.

    All elementwise optimizers update only the rows in a sparse gradient: `AdamW` on such an embedding is lazy AdamW.
    This class differs from `Adam` in where eps is added and in having no weight decay. A dense gradient updates all
    rows. Cost: two slots, as Adam.

    Args:
        params, options: as for every optimizer (see `stepwell.Optimizer`).
        lr: learning rate, at least 0.
        betas: decay rates (beta1, beta2) of the two averages, each in [0, 1).
        eps: added to the root before its bias correction, at least 0.

    Reference: torch.optim.SparseAdam's documentation; Kingma, Ba, arXiv 1412.6980, the end of section 2. t counts the
    gradients of the whole tensor, not those of a row.

    >>> optimizer = SparseAdam(model.parameters(), lr=1e-3)  # nn.Embedding(..., sparse=True)
    """

    rule, slots, decay = update, Adam.slots[:2], None
    memory = BOTH_MEANS
    facts = Facts(
        lr={"default": (1e-4, 1e-1), "cnn": (1e-4, 1e-1), "transformer": (1e-4, 1e-2), "toy": (1e-3, 1.0)},
        source="torch.optim.SparseAdam (1e-3), PyG's node2vec (1e-2); Adam's rates",
    )

    def __init__(
        self, params: Params, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        **options: Unpack[Options],
    ) -> None:  # fmt: skip
        super().__init__(params, hyperparameters(locals()), options)
