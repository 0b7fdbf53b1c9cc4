"""Lookahead: k steps of another optimizer, then back to a point on the line to where they started.

p        = slow
p       <- k steps of the wrapped optimizer
slow    <- slow + alpha * (p - slow)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from stepwell.arguments import whole
from stepwell.engine import formats, memory_order, sharding
from stepwell.engine.gradients import Factor
from stepwell.engine.reading import Reading
from stepwell.engine.rule import OneOf, Range, check_hyperparameters
from stepwell.engine.update import innermost
from stepwell.errors import UsageError
from stepwell.optimizers.facts import Facts
from stepwell.wrappers.weights import copy_all, wide, write_wide
from stepwell.wrappers.wrapper import Wrapper

_MOMENTA = ("momentum_buffer", "exp_avg")  # slots with an average of gradients, by torch's names
_RANGES: dict[str, Range | OneOf] = {
    "alpha": Range(0, 1, open_low=True, open_high=False),
    "pullback": OneOf(("none", "reset", "pullback")),
}


class Lookahead(Wrapper):
    """Lookahead, around any optimizer: weights with less variance, and hyperparameters that matter less.

    Cost: one copy of the weights, and a pass over the weights every k steps. Evaluate the slow weights with `with
    optimizer.evaluating(): ...`; at the end of a cycle the parameters are the slow weights.

    Args:
        optimizer: the wrapped optimizer, of this package or of torch; also SAM. Not L-BFGS.
        k: steps per cycle, at least 1; 5 to 10 are usual.
        alpha: how far the slow weights move towards the fast weights, in (0, 1]; 0.5 is usual, 0.8 for a long run.
        pullback: what happens to the momentum (the slots momentum_buffer and exp_avg) at the end of a cycle: "none"
            keeps it, "reset" sets it to zero, "pullback" averages it as the weights are averaged, with one more copy of
            it. The step count of a bias correction (Adam's) is not reset.

    Slow weights are copied at the first step of a parameter, so weights that are loaded after construction are not
    pulled back to the weights before. All groups share one step count: a cycle has k updates that were not skipped,
    also for a group that was added during the cycle, whose slow weights are its weights at that time. Slow weights are
    fp32 for bf16 and fp16 parameters, and exact for split weights.

    Reference: Zhang, Lucas, Hinton, Ba, "Lookahead optimizer: k steps forward, 1 step back", arXiv 1907.08610,
    algorithm 1; the choices for the momentum are those of its authors' code.

    >>> optimizer = Lookahead(AdamW(model.parameters(), lr=1e-3), k=5, alpha=0.5)
    >>> with optimizer.evaluating():
    ...     accuracy = evaluate(model)
    """

    settings: ClassVar[tuple[str, ...]] = ("k", "alpha", "pullback", "clock")
    kept: ClassVar[tuple[str, ...]] = ("slow", "momentum")
    usual_base: ClassVar[str] = "adamw"
    copies: ClassVar[int] = 1
    facts: ClassVar[Facts] = Facts(
        lr={"default": (1e-4, 1e-2), "cnn": (3e-4, 1e-1), "transformer": (1e-4, 1e-2), "toy": (1e-3, 1.0)},
        source="that of AdamW inside; Zhang et al. 1907.08610, section 5 (k 5 or 10, alpha 0.5 or 0.8, the same rates)",
        compare_options=MappingProxyType({"base": "adamw"}),
        method="averaged",
        kind="wrapper",
        needs_warmup=True,
    )

    def __init__(
        self, optimizer: torch.optim.Optimizer, k: int = 5, alpha: float = 0.5, pullback: str = "none"
    ) -> None:
        super().__init__(optimizer)
        given = check_hyperparameters("Lookahead", {"alpha": alpha, "pullback": pullback}, _RANGES)
        self.k, self.alpha, self.pullback = whole("Lookahead", "k", k, least=1), given["alpha"], given["pullback"]
        self.check_base()
        self._clock = 0
        self._pending: Reading | None = None

    def check_base(self) -> None:
        if self.pullback != "none" and not any(g.get("momentum") or "betas" in g for g in self.param_groups):
            raise UsageError(
                f"Lookahead: pullback={self.pullback!r}, and {type(innermost(self)).__name__} has no momentum here; "
                "give it some, or leave pullback out"
            )

    def around_another(self, optimizer: torch.optim.Optimizer) -> Wrapper:
        other = super().around_another(optimizer)
        for kept in other.own.values():
            kept.pop("momentum", None)  # of a slot that may be another one now
        return other

    def _checked(self, optimizer: Any) -> torch.optim.Optimizer:
        optimizer = super()._checked(optimizer)
        if isinstance(innermost(optimizer), torch.optim.LBFGS):
            raise UsageError(
                "Lookahead: L-BFGS takes its curvature from the steps that it made, and these would be taken back; "
                "wrap an optimizer that takes one gradient per step"
            )
        facts = getattr(innermost(optimizer), "facts", None)
        if facts is not None and facts.needs_modes:
            raise UsageError(
                f"Lookahead: {type(innermost(optimizer)).__name__} averages its weights itself, and pulling them back "
                "would tear its points apart; wrap the plain optimizer"
            )
        return optimizer

    def _check_settings(self, settings: Mapping[str, Any], groups: list[dict[str, Any]]) -> None:
        if not settings:
            return
        owner = "Lookahead: the checkpoint"
        whole(owner, "k", settings["k"], least=1)
        check_hyperparameters(owner, settings, _RANGES)
        whole(owner, "clock", settings["clock"])

    def _loaded(self, with_settings: bool) -> None:
        if not with_settings:  # a cycle begins with weights that belong to no other
            self.clock = 0

    # The clock

    @property
    def clock(self) -> int:
        """The number of updates that were not skipped. Waits for the last update."""
        if self._pending is not None:
            found_inf, self._pending = self._pending[0], None
            self._clock += found_inf == 0
        return self._clock

    @clock.setter
    def clock(self, clock: int) -> None:
        self._clock, self._pending = clock, None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_clock": self.clock, "_pending": None}

    # The step

    @torch.no_grad()
    def _before(self) -> None:
        for _, tensor in self.named():
            kept = self.own.get(tensor)
            if kept is None:
                if tensor.requires_grad:
                    self.own[tensor] = {"slow": wide(tensor, self).clone()}
            elif kept["slow"].device != tensor.device:  # the model has moved
                self.own[tensor] = {name: value.to(tensor.device) for name, value in kept.items()}

    def _after(self, factor: Factor, found_inf: Tensor | None) -> None:
        # On a GPU it is not known yet whether this update happened, only whether the one before did: where a cycle may
        # end, it ends under the flag.
        number = self.clock + 1
        if number % self.k == 0:
            if found_inf is not None and _waits(found_inf):
                self._end_cycle(found_inf)
            elif found_inf is None or not found_inf:
                self._end_cycle(None)
        if found_inf is None:
            self._clock = number
        else:
            self._pending = Reading(found_inf)

    @torch.no_grad()
    def _end_cycle(self, found_inf: Tensor | None) -> None:
        """Pull back, unless `found_inf`."""
        together: dict[Any, tuple[list[Tensor], list[Tensor]]] = {}
        for tensor, kept in self.own.items():
            slow = kept["slow"]
            if found_inf is None and slow.dtype == tensor.dtype:
                slows, fasts = together.setdefault((tensor.device, tensor.dtype), ([], []))
                slows.append(slow)
                fasts.append(tensor.detach())
                continue
            # Where the update was left out, nothing has moved since the flag was up, so the weight 0 is exact.
            weight = self.alpha if found_inf is None else self.alpha * (found_inf == 0).to(slow.device, slow.dtype)
            fast = wide(tensor, self)
            slow.lerp_(fast, weight)
            write_wide(tensor, slow if found_inf is None else torch.where(_up(found_inf, slow), fast, slow), self)
        for slows, fasts in together.values():
            torch._foreach_lerp_(slows, fasts, self.alpha)
            copy_all(fasts, slows)
        if self.pullback != "none":
            self._pull_momentum(found_inf)

    def _pull_momentum(self, found_inf: Tensor | None) -> None:
        inside = innermost(self)
        for tensor, kept in self.own.items():
            state = inside.state.get(tensor, {})
            for slot in _MOMENTA:
                if state.get(slot) is None:
                    continue
                momentum = _read(state, slot, tensor)
                before = sharding.local(kept.get("momentum", torch.zeros_like(momentum)))  # of the cycle before
                new = torch.lerp(before, momentum, self.alpha) if self.pullback == "pullback" else before
                if found_inf is not None:
                    up = _up(found_inf, new)
                    momentum, before = torch.where(up, momentum, new), torch.where(up, before, new)
                else:
                    momentum = before = new
                _write(state, slot, tensor, momentum)
                if self.pullback == "pullback":
                    part = before.clone()
                    kept["momentum"] = sharding.spread_like(tensor, part) if sharding.is_spread(tensor) else part

    # Evaluation

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Context manager: use the slow weights inside, restore the weights exactly on exit.

        Batch norm statistics belong to the fast weights: update them with `stepwell.recalibrate(model, loader)`.
        """
        self._refuse_inside("evaluating")
        fast = [(tensor, tensor.detach().clone()) for tensor in self.own]
        try:
            self._swapped = True
            with torch.no_grad():
                for tensor, kept in self.own.items():
                    tensor.detach().copy_(kept["slow"])
            yield
        finally:
            self._swapped = False
            with torch.no_grad():
                for tensor, values in fast:
                    tensor.detach().copy_(values)


def _waits(flag: Tensor) -> bool:
    """Whether reading the flag would wait for a device."""
    return flag.device.type != "cpu"


def _up(found_inf: Tensor, like: Tensor) -> Tensor:
    return (found_inf != 0).to(like.device)


def _stored(state: Any, slot: str, tensor: Tensor) -> tuple[str, tuple[Tensor, ...]]:
    here = {key: sharding.local(value) for key, value in state.items() if isinstance(value, Tensor)}
    name = formats.found_format(here, slot, sharding.local(tensor).numel())
    return name, tuple(here[key] for key in formats.state_names(slot, name))


def _read(state: Any, slot: str, tensor: Tensor) -> Tensor:
    """A slot in fp32 or wider, in the shape of the parameter, as much of it as lies here."""
    name, stored = _stored(state, slot, tensor)
    if name not in ("int8", "int4"):
        return stored[0].to(torch.promote_types(stored[0].dtype, torch.float32))
    part = sharding.local(tensor)
    shaped = torch.empty_like(part, dtype=torch.float32, requires_grad=False)
    memory_order.flat(shaped).copy_(formats.read(name, True, stored, part.numel(), torch.float32))
    return shaped


def _write(state: Any, slot: str, tensor: Tensor, values: Tensor) -> None:
    name, stored = _stored(state, slot, tensor)
    if name not in ("int8", "int4"):
        stored[0].copy_(values)
        return
    shaped = torch.empty_like(sharding.local(tensor), dtype=torch.float32, requires_grad=False).copy_(values)
    formats.write(name, True, stored, memory_order.flat(shaped), None)
