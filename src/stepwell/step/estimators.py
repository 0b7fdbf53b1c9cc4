"""Estimates of the diagonal of the Hessian, for optimizers that divide by it (Sophia). A Step makes one every few
updates.

An estimate is that of the whole batch of an update, at the weights before the update, for any number of micro-batches.
With w_i the weight of micro-batch i and W their sum, the loss of the batch is sum_i w_i loss_i / W, and

    Hutchinson                h = u * sum_i w_i (H_i u) / W                     u: random signs, the same for all i
    Gauss-Newton-Bartlett     h = (sum_i sqrt(w_i b_i) g_i)^2 / W               g_i: gradient of the mean loss of its
                                                                                b_i predictions under labels drawn
                                                                                from the model

The second is B * g^2 for a single batch of B predictions, and is unbiased for any weights: g_i has the mean 0, and
b_i g_i^2 has the mean of the Gauss-Newton diagonal of micro-batch i.

The random draws are a function of the seed, the number of the update, the micro-batch and the process. No generator of
the run is advanced, every device draws the same numbers, and a resumed run needs only the number of the update.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from stepwell.arguments import whole
from stepwell.engine import randomness
from stepwell.engine.curvature import hessian_products
from stepwell.engine.gradients import Factor
from stepwell.engine.update import innermost
from stepwell.errors import UsageError, shown
from stepwell.step.accumulation import Weight

Logits = Tensor | Callable[[], Tensor]
STREAM = 1 << 16  # of the random bits: beyond those with which an optimizer rounds its slots


class Estimator:
    """Base class: one estimate every `every` updates, the first included. A subclass sums the contributions of
    micro-batches (`_add`) and computes the estimate from the sums (`_estimate`).

    Args:
        every: updates from one estimate to the next, from 1 to 100.
        micro_batches: how many micro-batches of an update the estimate uses, at least 1; None uses all.
        seed: seed of the random draws, from 0 to 2**31 - 1.
    """

    takes_logits = False

    def __init__(self, every: int = 10, *, micro_batches: int | None = None, seed: int = 0) -> None:
        name = type(self).__name__
        self.every = whole(name, "every", every, least=1, most=100)
        self.micro_batches = micro_batches
        if micro_batches is not None:
            self.micro_batches = whole(name, "micro_batches", micro_batches, least=1)
        self.seed = whole(name, "seed", seed, most=2**31 - 1)
        self.updates = 0  # begun so far, skipped ones included: which one is due is known without waiting
        self._number = 0  # of micro-batches in the update that is due
        self._total: Weight = 0
        self._sums: dict[Tensor, Tensor] = {}
        self._params: list[Tensor] = []
        self._optimizer: Any = None
        self._group: Any = None  # processes over which the batch is spread

    def fresh(self) -> Estimator:
        """The same settings for another run, or another optimizer."""
        other = copy.copy(self)
        other.updates, other._optimizer = 0, None
        other.drop()
        return other

    # Called by the step

    def bind(self, optimizer: torch.optim.Optimizer, group: Any) -> None:
        """Bind to `optimizer`, and to the process group of a distributed model."""
        taker = receiver(optimizer)
        if self._optimizer not in (None, taker):
            raise UsageError(
                f"Step: this {type(self).__name__} already belongs to another optimizer; make one for each optimizer"
            )
        self._optimizer, self._group = taker, group

    def rebind(self, optimizer: torch.optim.Optimizer, group: Any) -> None:
        """Bind to another optimizer of the same run."""
        self._optimizer = None
        self.bind(optimizer, group)

    def check(self, logits: Any) -> None:
        """Raise UsageError if `logits` are missing or not used."""
        name = type(self).__name__
        if self.takes_logits and logits is None:
            raise UsageError(
                f"Step: {name} draws labels from the model's predictions; pass them as step(loss, logits=logits), or "
                "use estimator=Hutchinson(), which needs only the loss"
            )
        if not self.takes_logits and logits is not None:
            raise UsageError(f"Step: logits have no effect with {name}, which needs only the loss; omit them")

    def take(self, loss: Tensor, logits: Logits | None, weight: Weight, scaler: Any) -> None:
        """Add a micro-batch, before its backward pass. `.grad` is not changed."""
        if self.updates % self.every:
            return
        if self._number == 0:
            groups = self._optimizer.param_groups
            self._params = [p for group in groups for p in group["params"] if p.requires_grad and p.numel()]
            self._refresh()
        self._number += 1
        if self.micro_batches is None or self._number <= self.micro_batches:
            with torch.enable_grad():
                self._add(loss, logits, weight, scaler)

    def hand_over(self, found_inf: Tensor) -> None:
        """Pass the estimate to the optimizer, if this update has one. The estimate is dropped if `found_inf` is set."""
        if self._number:
            estimates, total = self._estimates()
            self._optimizer.add_hessian({p: value / total for p, value in estimates.items()}, found_inf)
        self.updates += 1
        self.drop()

    def drop(self) -> None:
        """Drop the micro-batches of an update that is not made."""
        self._number, self._total, self._sums, self._params = 0, 0, {}, []

    def state_dict(self) -> dict[str, Any]:
        return {"kind": type(self).__name__, "updates": self.updates, "seed": self.seed}

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Raise UsageError if `load_state_dict` cannot load this state."""
        name = type(self).__name__
        if state["kind"] != name:
            raise UsageError(
                f"Step: the checkpoint is of estimator={state['kind']}(), this Step has {name}(); use the same "
                "estimator"
            )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` gave."""
        self.updates, self.seed = state["updates"], state["seed"]
        self.drop()

    # For subclasses

    def _add(self, loss: Tensor, logits: Logits | None, weight: Weight, scaler: Any) -> None:
        """Add the contribution of one micro-batch to the sums."""
        raise NotImplementedError

    def _estimate(self, sums: dict[Tensor, Tensor]) -> dict[Tensor, Tensor]:
        """The estimate times the sum of the weights, from the sums of this process."""
        raise NotImplementedError

    def _refresh(self) -> None:
        """Called before the first micro-batch of an update that is due."""

    def _accumulate(self, parts: Sequence[Tensor | None], factor: Weight, weight: Weight, scaler: Any) -> None:
        """Add `factor` times each part, unscaled, to the sums: in fp32, or fp64 for fp64 parameters."""
        if all(part is None for part in parts):
            raise UsageError(
                f"Step: {type(self).__name__} finds no parameter of the optimizer in the graph; do loss and logits "
                "come from another model? (A model with sharded parameters, as by FSDP, is not supported.)"
            )
        self._total = self._total + weight
        scale = 1.0 if scaler is None else scaler._scale
        for p, part in zip(self._params, parts, strict=True):
            if part is None:
                continue
            wide = torch.float64 if p.dtype == torch.float64 else torch.float32
            dense = (part.to_dense() if part.is_sparse else part).detach().to(wide)
            part_sum = dense * (_on(factor, dense) / _on(scale, dense))
            self._sums[p] = self._sums[p] + part_sum if p in self._sums else part_sum

    def _stream(self, place: int, number: int) -> int:
        """The key of the random bits of one tensor, or of one micro-batch, in this update and process."""
        processes, rank = 1, 0
        if self._group is not None:
            processes = torch.distributed.get_world_size(self._group)
            rank = torch.distributed.get_rank(self._group)
        key = randomness.key_of(self.seed, place, self.updates)
        return randomness.stream(key, STREAM + number * processes + rank)

    def _estimates(self) -> tuple[dict[Tensor, Tensor], Weight]:
        return self._estimate(self._everywhere(self._sums)), self._total_everywhere()

    def _everywhere(self, sums: dict[Tensor, Tensor]) -> dict[Tensor, Tensor]:
        """The sums over all processes; every process must have the same tensors."""
        if self._group is None:
            return sums
        for p in self._params:
            if p not in sums:
                sums[p] = torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32), requires_grad=False)
            torch.distributed.all_reduce(sums[p], group=self._group)
        return sums

    def _total_everywhere(self) -> Weight:
        if self._group is None:
            return self._total
        device = self._params[0].device
        total = torch.as_tensor(self._total, dtype=torch.float64, device=device).clone()
        torch.distributed.all_reduce(total, group=self._group)
        return total.float()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(every={self.every})"


class Hutchinson(Estimator):
    """Hutchinson's estimate of the Hessian's diagonal: u * (H u), u random signs. For any loss that is twice
    differentiable.

    It needs a second gradient with its own graph (`create_graph`), in memory together with the graph of the loss, and a
    backward pass through both. An update with an estimate takes 4 to 5 times as long as one without
    (bench/estimators.py): 30 to 40 % of the run at every tenth update; with `micro_batches=1` of n, an n-th of that.
    Fused attention, cuDNN's recurrent layers and compiled models have no second derivative; `GaussNewtonBartlett` needs
    none. Sophia's rho with it: 0.01.

    Args:
        every: updates from one estimate to the next, from 1 to 100.
        micro_batches: how many micro-batches of an update the estimate uses, at least 1; None uses all.
        seed: seed of the signs, from 0 to 2**31 - 1.

    Reference: Liu et al., arXiv 2305.14342, algorithm 1, which draws u from a normal distribution and uses 32 of 480
    sequences; signs have the same mean and less variance (Hutchinson, 1989).

    >>> step = Step(Sophia(model.parameters(), rho=0.01), estimator=Hutchinson(every=10))
    >>> done = step(loss_fn(model(x), y))
    """

    def _refresh(self) -> None:
        bits = (
            randomness.random_bits(self._stream(k, 0), p.numel(), p.device, randomness.mix)
            for k, p in enumerate(self._params)
        )
        self._signs = [(one >> 31).view(p.shape).to(p.dtype) * 2 - 1 for one, p in zip(bits, self._params, strict=True)]

    def _add(self, loss: Tensor, logits: Logits | None, weight: Weight, scaler: Any) -> None:
        self._accumulate(hessian_products(_scaled(loss, scaler), self._params, self._signs), weight, weight, scaler)

    def _estimate(self, sums: dict[Tensor, Tensor]) -> dict[Tensor, Tensor]:
        return sums

    def _everywhere(self, sums: dict[Tensor, Tensor]) -> dict[Tensor, Tensor]:
        # each process has signs of its own, so the products with them are what is added up
        signs = zip(self._params, self._signs, strict=True)
        return super()._everywhere({p: u * sums[p] for p, u in signs if p in sums})

    def drop(self) -> None:
        super().drop()
        self._signs = []


class GaussNewtonBartlett(Estimator):
    """The Gauss-Newton-Bartlett estimate: B * g^2, where g is the gradient of the mean loss of B predictions under
    labels drawn from the model. For classification and language models; never negative.

    It costs one more backward pass through the graph of the loss: an update with an estimate takes 1.7 to 2 times as
    long as one without (bench/estimators.py), 7 to 10 % of the run at every tenth update. Sophia's rho with it: 0.05.

    Args:
        every: updates from one estimate to the next, from 1 to 100.
        likelihood: the kind of loss: "categorical" (cross entropy; the last dimension of the logits is classes) or
            "bernoulli" (binary cross entropy with logits; every element is a prediction).
        micro_batches: how many micro-batches of an update the estimate uses, at least 1; None uses all.
        seed: seed of the labels, from 0 to 2**31 - 1.

    Pass to the step the logits that count in the loss: `logits[mask]` without padding, `logits.movedim(1, -1)` for
    images. They come from the forward pass of the loss, so nothing is computed twice. A function is called only when an
    estimate is due: `logits=lambda: model(x[:32])` estimates from a part of the batch.

    Reference: Liu et al., arXiv 2305.14342, algorithm 2.

    >>> step = Step(Sophia(model.parameters(), rho=0.05), estimator=GaussNewtonBartlett(every=10))
    >>> logits = model(x)
    >>> done = step(cross_entropy(logits, y), logits=logits)

    Raises UsageError at a step without logits.
    """

    takes_logits = True

    def __init__(
        self,
        every: int = 10,
        likelihood: str = "categorical",
        *,
        micro_batches: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(every, micro_batches=micro_batches, seed=seed)
        if not isinstance(likelihood, str) or likelihood not in ("categorical", "bernoulli"):
            raise UsageError(
                f"GaussNewtonBartlett: likelihood={shown(likelihood)}; it must be 'categorical' (cross entropy) or "
                "'bernoulli' (binary cross entropy); for other losses use Hutchinson()"
            )
        self.likelihood = likelihood

    def check(self, logits: Any) -> None:
        super().check(logits)
        if not callable(logits):
            self._check_logits(logits)

    def _check_logits(self, logits: Any) -> None:
        if not isinstance(logits, Tensor):
            raise UsageError(
                f"Step: logits is a {type(logits).__name__}; it must be a tensor (output.logits of a Hugging Face "
                "model), or a function that returns one"
            )
        if not logits.requires_grad:
            raise UsageError("Step: logits have no graph; were they detached, or computed under no_grad?")
        if self.likelihood == "categorical" and (logits.ndim < 2 or logits.shape[-1] < 2):
            raise UsageError(
                f"Step: logits have shape {tuple(logits.shape)}; they must be (..., classes) with two classes or more; "
                "for one logit per prediction use GaussNewtonBartlett(likelihood='bernoulli')"
            )

    def _add(self, loss: Tensor, logits: Logits | None, weight: Weight, scaler: Any) -> None:
        if not isinstance(logits, Tensor):
            assert logits is not None
            logits = logits()
            self._check_logits(logits)
        if logits.numel() == 0:
            return
        mean, predictions = self._drawn_loss(logits.to(torch.promote_types(logits.dtype, torch.float32)))
        grads = torch.autograd.grad(_scaled(mean, scaler), self._params, retain_graph=True, allow_unused=True)
        self._accumulate(grads, (weight * predictions) ** 0.5, weight, scaler)

    def _drawn_loss(self, logits: Tensor) -> tuple[Tensor, int]:
        """The mean loss under labels drawn from the model, and the number of predictions in the mean."""
        if self.likelihood == "bernoulli":
            flat = logits.reshape(-1)
            drawn = (self._uniform(len(flat), flat.device) < flat.detach().sigmoid()).to(flat.dtype)
            return functional.binary_cross_entropy_with_logits(flat, drawn), len(flat)
        rows = logits.reshape(-1, logits.shape[-1])
        return functional.cross_entropy(rows, self._drawn(rows.detach())), len(rows)

    def _drawn(self, rows: Tensor) -> Tensor:
        """A random class for each row of logits, by the inverse of the cumulative distribution function."""
        reached = rows.softmax(dim=-1).cumsum(dim=-1)
        # a part of the last sum, which may differ from 1: no class of probability 0 is drawn
        point = self._uniform(len(rows), rows.device).to(rows.dtype)[:, None] * reached[:, -1:]
        return torch.searchsorted(reached, point, right=True)[:, 0]

    def _uniform(self, count: int, device: torch.device) -> Tensor:
        """Numbers in [0, 1) with 24 bits, fp32, of this micro-batch."""
        bits = randomness.random_bits(self._stream(0, self._number), count, device, randomness.mix)
        return (bits >> 8).to(torch.float32) * 2.0**-24

    def _estimate(self, sums: dict[Tensor, Tensor]) -> dict[Tensor, Tensor]:
        return {p: value * value for p, value in sums.items()}


def receiver(optimizer: torch.optim.Optimizer) -> Any:
    """The optimizer that uses estimates, inside its wrappers, or None."""
    inside = innermost(optimizer)
    return inside if getattr(inside, "takes_estimates", False) else None


def twice_differentiable(optimizer: torch.optim.Optimizer, loss: Callable[..., Any]) -> Callable[..., Any]:
    """`loss`, computed without fused attention if `optimizer` uses estimates: fused attention has no second
    derivative."""
    if receiver(optimizer) is None:
        return loss

    def plain(*arguments: Any) -> Any:
        with sdpa_kernel(SDPBackend.MATH):
            return loss(*arguments)

    return plain


def _scaled(loss: Tensor, scaler: Any) -> Tensor:
    return loss if scaler is None else scaler.scale(loss)


def _on(factor: Factor, other: Tensor) -> Factor:
    return factor.to(other.device) if isinstance(factor, Tensor) else factor
