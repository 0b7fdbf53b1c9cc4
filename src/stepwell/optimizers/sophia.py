"""Sophia: momentum over a running estimate of the Hessian's diagonal, clipped element by element.

exp_avg   <- beta1 * exp_avg + (1 - beta1) * g
hessian   <- beta2 * hessian + (1 - beta2) * estimate        where one was given since the last step, else as it is
direction  = clip(exp_avg / max(rho * hessian, eps), 1)
p         <- p - lr * weight_decay * p - lr * direction
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from stepwell.engine import Optimizer, Range, Slot, formats
from stepwell.ops import clamp, lerp, maximum
from stepwell.optimizers.facts import Facts

FORGOTTEN = 100  # steps without an estimate after which something is wrong; the paper takes one in 10


def update(g, p, t, exp_avg, hessian, *, beta1, rho, eps):  # type: ignore[no-untyped-def]
    exp_avg = lerp(exp_avg, g, 1 - beta1)
    return clamp(exp_avg / maximum(rho * hessian, eps), -1, 1), exp_avg, hessian


class Sophia(Optimizer):
    """Sophia. Steps shrink where the loss is curved; where it is flat or bends down every step is lr.

    For language models, given an estimate of the Hessian's diagonal every 10 steps (without any it is Signum). Tune
    rho until 10 to 50 % of the elements are not clipped. Against AdamW: the same lr or a little smaller.

    Args:
        params: parameters, (name, parameter) pairs, or groups of them.
        lr: learning rate, at least 0: the largest step of one element.
        betas: decay of the averages of gradients and of estimates, each in [0, 1).
        rho: scale of the curvature, above 0; 0.05 with `gauss_newton_bartlett`, 0.01 with `hutchinson`.
        weight_decay: at least 0; shrinks the weights by lr * weight_decay per step.
        eps: smallest divisor, above 0.
        options: `maximize`, `state`, `backend` (see `stepwell.Optimizer`).

    Reference: Liu et al., "Sophia: a scalable stochastic second-order optimizer for language model pre-training", arXiv
    2305.14342, algorithms 1 to 3 of the later versions, which call rho gamma. An estimate counts from the step it is
    made for; the authors' loop makes it after the step, and their code divides by rho * batch * hessian + 1e-15.

    >>> optimizer = Sophia(model.parameters(), lr=3e-4, rho=0.05)
    >>> if step % 10 == 0:  # labels drawn from the model's own predictions
    ...     logits = model(x)
    ...     drawn = torch.distributions.Categorical(logits=logits).sample()
    ...     optimizer.gauss_newton_bartlett(cross_entropy(logits, drawn), batch=len(x))
    """

    rule, slots, decay = update, (Slot("exp_avg"), Slot("hessian")), "decoupled"
    ranges: ClassVar = {"rho": Range(0, open_low=True), "eps": Range(0, open_low=True)}
    facts = Facts(
        lr={"default": (3e-5, 3e-3), "cnn": (1e-4, 1e-2), "transformer": (3e-5, 3e-3), "toy": (1e-4, 1e-1)},
        source="Liu et al. 2305.14342, section 3.1 (close to AdamW's, 6e-4 at 125 million parameters)",
        method="curvature",
        lr_against_adamw=0.8,
        needs_warmup=True,
    )

    def __init__(
        self,
        params: Any,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.965, 0.99),
        rho: float = 0.04,
        weight_decay: float = 0.1,
        eps: float = 1e-12,
        **options: Any,
    ) -> None:
        self._since_estimate = 0
        defaults = {"lr": lr, "betas": betas, "rho": rho, "weight_decay": weight_decay, "eps": eps}
        super().__init__(params, defaults, options)

    def update(self, gradient_factor: float | Tensor = 1.0, found_inf: Tensor | None = None) -> None:
        self._since_estimate += 1
        if self._since_estimate == FORGOTTEN:
            warnings.warn(
                f"Sophia: no estimate of the Hessian for {FORGOTTEN} steps, so this is Signum; call "
                "optimizer.gauss_newton_bartlett(loss, batch) or optimizer.hutchinson(loss) every 10 steps",
                stacklevel=3,
            )
        super().update(gradient_factor, found_inf)

    def gauss_newton_bartlett(self, loss: Tensor, batch: int) -> None:
        """Estimate from a mean loss over `batch` examples whose labels were drawn from the model (algorithm 2)."""
        params = self._trained()
        grads = torch.autograd.grad(loss, params, allow_unused=True)
        self.add_hessian({p: batch * g * g for p, g in zip(params, grads, strict=True) if g is not None})

    def hutchinson(self, loss: Tensor, generator: torch.Generator | None = None) -> None:
        """Estimate from the true loss, u * (H @ u) with random signs u (algorithm 1). Needs second derivatives."""
        params = self._trained()
        grads = torch.autograd.grad(loss, params, create_graph=True, allow_unused=True)
        pairs = [(p, g) for p, g in zip(params, grads, strict=True) if g is not None and g.requires_grad]
        signs = [
            torch.randint(0, 2, p.shape, generator=generator, device=p.device).to(p.dtype) * 2 - 1 for p, _ in pairs
        ]
        products = torch.autograd.grad([g for _, g in pairs], [p for p, _ in pairs], signs, allow_unused=True)
        found = zip(pairs, signs, products, strict=True)
        self.add_hessian({p: u * hu for (p, _), u, hu in found if hu is not None})

    @torch.no_grad()
    def add_hessian(self, estimates: Mapping[Tensor, Tensor]) -> None:
        """Average an estimate of the Hessian's diagonal, parameter -> tensor of its shape, into the slot `hessian`."""
        self._since_estimate = 0
        for group in self.param_groups:
            beta2 = group["betas"][1]
            for place, p in enumerate(group["params"]):
                if p not in estimates or p.numel() == 0:
                    continue
                state = self.watched_state(p)
                if "hessian" not in state:
                    state["step"] = torch.zeros(())
                    dtype = formats.working_dtype(formats.format_of(p, "a parameter"))
                    state["hessian"] = torch.zeros_like(p, dtype=dtype, requires_grad=False)
                name = formats.found_format(state, "hessian", p.numel())
                stored = tuple(state[key] for key in formats.state_names("hessian", name))
                old = formats.read(name, True, stored, p.numel(), torch.promote_types(p.dtype, torch.float32))
                estimate = formats.flat(torch.empty_like(p, dtype=old.dtype).copy_(estimates[p]))
                new = old + (1 - beta2) * (estimate - old)
                random = None
                if name == "bf16":  # not the bits with which the step rounds the slots
                    key = formats.key_of(group["seed"], place, float(state["step"]))
                    random = formats.random_bits(formats.stream(key, len(self.slots)), p.numel(), p.device) & 0xFFFF
                formats.write(name, True, stored, new, random)

    def _trained(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"] if p.requires_grad]
