"""Sophia: momentum divided by a running estimate of the Hessian's diagonal, clipped element by element.

exp_avg   <- beta1 * exp_avg + (1 - beta1) * g
hessian   <- beta2 * hessian + (1 - beta2) * estimate        where there is a new estimate, else unchanged
direction  = clip(exp_avg / max(rho * hessian, eps), 1)
p         <- p - lr * weight_decay * p - lr * direction
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from stepwell.engine import Optimizer, Options, Params, Range, Slot, Unpack, hyperparameters
from stepwell.engine.curvature import hessian_products
from stepwell.engine.estimates import average_into
from stepwell.errors import UsageError
from stepwell.ops import clamp, ema, maximum
from stepwell.optimizers.facts import Facts
from stepwell.optimizers.memory import ONLY_MEAN

FORGOTTEN = 100  # steps without an estimate before a step is refused; the paper makes an estimate every 10 steps


def update(g, p, t, exp_avg, hessian, *, beta1, rho, eps):
    exp_avg = ema(exp_avg, g, beta1)
    return clamp(exp_avg / maximum(rho * hessian, eps), -1, 1), exp_avg, hessian


class Sophia(Optimizer):
    """Sophia: small steps where curvature is high; where curvature is zero or negative, every element moves by lr.

    Use it for language models, with an estimate of the Hessian's diagonal every 10 steps: `stepwell.Step` makes it with
    `estimator=GaussNewtonBartlett()` or `Hutchinson()`. Tune rho until 10 to 50 % of the elements are not clipped.
    Cost: two slots, as AdamW, and an additional backward pass for each estimate. Against AdamW: the same lr or a little
    smaller, weight_decay twice as large.

    Args:
        params, options: as for every optimizer (see `stepwell.Optimizer`).
        lr: learning rate, at least 0: the largest step of an element.
        betas: decay rates (beta1, beta2) of the averages of gradients and of estimates, each in [0, 1).
        rho: scale of the curvature, above 0; 0.05 with Gauss-Newton-Bartlett estimates, 0.01 with Hutchinson's.
        weight_decay: at least 0; each step shrinks the weights by lr * weight_decay.
        eps: smallest denominator, above 0.

    Reference: Liu et al., "Sophia: a scalable stochastic second-order optimizer for language model pre-training", arXiv
    2305.14342, algorithms 1 to 3 of the later versions, which call rho gamma. Here an estimate affects the step that it
    is made for. The authors' loop makes it after the step, and their code divides by rho * batch * hessian + 1e-15.

    >>> optimizer = Sophia(model.parameters(), lr=3e-4, rho=0.05)
    >>> step = Step(optimizer, estimator=GaussNewtonBartlett(every=10))
    >>> logits = model(x)
    >>> done = step(cross_entropy(logits, y), logits=logits)

    In a loop without `Step`, call `optimizer.hutchinson(loss)` before the backward pass of every tenth step; or, for a
    loss whose labels were drawn from the model's own predictions, `optimizer.gauss_newton_bartlett(drawn_loss, batch)`.

    Raises UsageError at a step that follows 100 steps without an estimate: the method would be Signum.
    """

    rule, slots, decay = update, (Slot("exp_avg", memory="beta1"), Slot("hessian", memory="beta2")), "decoupled"
    ranges = {"rho": Range(0, open_low=True), "eps": Range(0, open_low=True)}
    memory = ONLY_MEAN
    takes_estimates = True
    facts = Facts(
        lr={"default": (3e-5, 3e-3), "cnn": (1e-4, 1e-2), "transformer": (3e-5, 1e-2), "toy": (1e-4, 1e-1)},
        source="Liu et al. 2305.14342, its code's page (6e-4, 5e-4, 3e-4 where AdamW has 6e-4, 3e-4, 2e-4; elsewhere a "
        "little below it), Wen et al. 2509.02046 (4e-3 where AdamW has 8e-3)",
        method="curvature",
        lr_against_adamw=0.8,
        needs_warmup=True,
        length="lr",
    )

    def __init__(
        self, params: Params, lr: float = 1e-4, betas: tuple[float, float] = (0.965, 0.99), rho: float = 0.04,
        weight_decay: float = 0.1, eps: float = 1e-12, **options: Unpack[Options],
    ) -> None:  # fmt: skip
        self._since_estimate = 0
        super().__init__(params, hyperparameters(locals()), options)

    def update(self, gradient_factor: float | Tensor = 1.0, found_inf: Tensor | None = None) -> None:
        if self._since_estimate >= FORGOTTEN:
            raise UsageError(
                f"Sophia: no estimate of the Hessian for {FORGOTTEN} steps, and without one this is Signum; let "
                "Step(optimizer, estimator=GaussNewtonBartlett()) or estimator=Hutchinson() make them, or call "
                "optimizer.hutchinson(loss) before the backward pass of every tenth step"
            )
        self._since_estimate += 1
        super().update(gradient_factor, found_inf)

    def gauss_newton_bartlett(self, loss: Tensor, batch: int) -> None:
        """Estimate from a mean loss over `batch` predictions whose labels were drawn from the model (algorithm 2).

        The graph is retained for the backward pass of the true loss.
        """
        params = self._trained()
        grads = torch.autograd.grad(loss, params, retain_graph=True, allow_unused=True)
        self.add_hessian({p: batch * g * g for p, g in zip(params, grads, strict=True) if g is not None})

    def hutchinson(self, loss: Tensor, generator: torch.Generator | None = None) -> None:
        """Estimate from the true loss, u * (H @ u) with random signs u (algorithm 1). Needs second derivatives.

        The graph is retained for the backward pass.
        """
        params = self._trained()
        signs = [torch.randint(0, 2, p.shape, generator=generator, device=p.device).to(p.dtype) * 2 - 1 for p in params]
        found = zip(params, signs, hessian_products(loss, params, signs), strict=True)
        self.add_hessian({p: u * hu for p, u, hu in found if hu is not None})

    def add_hessian(self, estimates: Mapping[Tensor, Tensor], found_inf: Tensor | None = None) -> None:
        """Average an estimate of the Hessian's diagonal, parameter -> tensor of its shape, into the slot `hessian`.

        Where `found_inf` is not 0, and where any number of the estimate is not finite, no slot changes.
        """
        self._since_estimate = 0
        average_into(self, "hessian", "beta2", estimates, found_inf)

    def _trained(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"] if p.requires_grad]
