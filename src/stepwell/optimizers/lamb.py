"""LAMB: Adam's direction plus weight decay, scaled to the norm of each tensor.

exp_avg, exp_avg_sq as in Adam
u      = debias(exp_avg) / (sqrt(debias(exp_avg_sq)) + eps) + weight_decay * p
ratio  = ||p|| / ||u||, 1 where either norm is 0
p     <- p - lr * ratio * u
"""

from __future__ import annotations

from stepwell.engine import Options, Params, Range, Unpack, hyperparameters
from stepwell.ops import debias, ema, ema_square, minimum, sqrt, where
from stepwell.optimizers.adam import Adam
from stepwell.optimizers.facts import Facts
from stepwell.optimizers.layerwise import EXCLUDE, LayerWise
from stepwell.optimizers.memory import BOTH_MEANS
from stepwell.optimizers.pieces import trust_ratio


def _u(g, p, t, exp_avg, exp_avg_sq, beta1, beta2, eps, weight_decay, bias_correction):
    exp_avg = ema(exp_avg, g, beta1)
    exp_avg_sq = ema_square(exp_avg_sq, g, beta2)
    m, v = exp_avg, exp_avg_sq
    if bias_correction:
        m, v = debias(m, beta1, t), debias(v, beta2, t)
    return m / (sqrt(v) + eps) + weight_decay * p, exp_avg, exp_avg_sq


def measure(g, p, t, exp_avg, exp_avg_sq, *, beta1, beta2, eps, weight_decay, bias_correction, exclude):
    u, *_ = _u(g, p, t, exp_avg, exp_avg_sq, beta1, beta2, eps, 0 if exclude else weight_decay, bias_correction)
    return {"p_squared": p * p, "u_squared": u * u}


def update(
    g, p, t, exp_avg, exp_avg_sq, *, beta1, beta2, eps, weight_decay, max_weight_norm, bias_correction,
    exclude, p_squared, u_squared,
):  # fmt: skip
    decay = 0 if exclude else weight_decay
    u, exp_avg, exp_avg_sq = _u(g, p, t, exp_avg, exp_avg_sq, beta1, beta2, eps, decay, bias_correction)
    if exclude:
        return u, exp_avg, exp_avg_sq
    ratio = minimum(sqrt(p_squared), max_weight_norm) / where(u_squared > 0, sqrt(u_squared), 1)
    return trust_ratio(ratio, p_squared, u_squared) * u, exp_avg, exp_avg_sq


class LAMB(LayerWise):
    """LAMB: for very large batches of transformers and ResNets (the reference of MLPerf's BERT).

    Each tensor moves by lr times its own norm, so lr is about 4 times AdamW's and grows with the root of the batch
    size. At small batches it has no advantage over AdamW. Cost: two slots, as AdamW, and a second pass over every
    tensor. Biases and norm weights get Adam's step without ratio and weight decay, as in the authors' training code:
    `LAMB(model)` finds them.

    Args:
        params, options: as for every optimizer (see `stepwell.Optimizer`). Pass a model to `exclude` by role.
        lr: learning rate, at least 0.
        betas: decay rates (beta1, beta2) of the two averages, each in [0, 1).
        eps: added to the denominator for numerical stability, at least 0.
        weight_decay: at least 0; inside the trust ratio.
        max_weight_norm: upper bound of ||p|| in the ratio, above 0. Infinite in the paper, 10 in the first PyTorch
            ports.
        bias_correction: as in the paper's algorithm 2; its appendix leaves the correction out.
        exclude: the tensors without ratio and weight decay. "vectors": norms, biases and scalars by role if `params` is
            a model or was made from one, else tensors with fewer than two dimensions; "all", for a group; "none".

    Reference: You et al., "Large batch optimization for deep learning: training BERT in 76 minutes", arXiv 1904.00962,
    algorithm 2. To limit the norm of the gradient, use `stepwell.Step` with `clip_norm`.

    >>> optimizer = LAMB(model.parameters(), lr=2e-3, weight_decay=0.01)
    """

    rule, measure, sums, slots, decay = update, measure, ("p_squared", "u_squared"), Adam.slots[:2], None
    ranges = {"exclude": EXCLUDE, "max_weight_norm": Range(0, float("inf"), open_low=True, open_high=False)}
    memory = BOTH_MEANS
    facts = Facts(
        lr={"default": (3e-4, 5e-2), "cnn": (5e-4, 5e-2), "transformer": (3e-4, 5e-2), "toy": (1e-3, 1.0)},
        method="layer-wise",
        lr_against_adamw=4.0,
        needs_warmup=True,
        needs_large_batch=True,
        source="You et al. 1904.00962, Wightman et al. 2110.00476 (5e-3 and 8e-3 at 2048), MLPerf BERT (3.5e-4 at 256 "
        "to 3.5e-3 at 4608, where RoBERTa has 1e-4 at 256 and 7e-4 at 8192)",
        kind="sums",
        length="lr",
        published={"default": (3.5e-4, 8e-3)},
    )

    def __init__(
        self, params: Params, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-6,
        weight_decay: float = 0.0, *, max_weight_norm: float = float("inf"), bias_correction: bool = True,
        exclude: str = "vectors", **options: Unpack[Options],
    ) -> None:  # fmt: skip
        super().__init__(params, hyperparameters(locals()), options)
