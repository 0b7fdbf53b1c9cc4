"""Updates of single parameters: each as soon as its gradient is there, so that the gradient can be freed.

An optimizer's plan puts tensors with the same kernel into one launch. Here every parameter has a launch to itself, with
the numbers, names and random bits of the whole, so the weights are those of one update of all, bit for bit, where a
rule looks at one element or one tensor. (Rules of matrices work on stacks of them elsewhere, whose products may round
otherwise.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import is_
from typing import Any, TypeVar

import torch
from torch import Tensor

from stepwell.engine import sharding
from stepwell.engine.launch import Launch, Member
from stepwell.engine.optimizer import Optimizer
from stepwell.engine.overlaps import refuse_overlaps
from stepwell.engine.plan import Plan
from stepwell.engine.pointers import has_memory
from stepwell.engine.watch import Stale
from stepwell.errors import UsageError

T = TypeVar("T")


def refusal(optimizer: Any) -> str | None:
    """The reason why the parameters of an optimizer cannot be updated one by one, or None."""
    name = type(optimizer).__name__
    if not isinstance(optimizer, Optimizer):
        return f"{name} updates all parameters together; take an optimizer of stepwell, without a wrapper around it"
    if getattr(optimizer, "needs_closure", False):
        return f"{name} evaluates the loss several times for each update"
    if optimizer.takes_estimates:
        return f"{name} needs estimates of the Hessian's diagonal, which are made from all gradients"
    if any(signature.over == "run" for signature in optimizer.signatures.values()):
        return f"{name} follows sums over the gradients of all parameters"
    if any(sharding.is_spread(tensor) for group in optimizer.param_groups for tensor in group["params"]):
        return "the parameters are parts of sharded tensors, whose processes would have to wait for one another"
    return None


class Released:
    """The launches of an optimizer, one for each parameter. It stands where the plan is kept, so that any other update
    makes a plan of all parameters again, and `begin` these launches after it."""

    owned: tuple[()] = ()  # matrices that other processes own

    def __init__(self, optimizer: Any) -> None:
        plan = Plan(optimizer)
        self._optimizer, self.rows, self._members, self._groups = optimizer, plan.rows, plan.members, plan.groups
        self._launches: dict[Tensor, Launch] = {}
        for launch in plan.launches:
            for i, owner in enumerate(launch.owners):
                one = Member(
                    launch.names[i], owner, launch.tensors[i], int(launch.groups[i]), launch.places[i], launch.states[i]
                )
                self._launches[owner] = Launch(
                    launch.kind, launch.signature, launch.backend, launch.owner, optimizer.said, [one], plan.groups,
                    launch.slots.all_states,
                )  # fmt: skip
        optimizer._kept.plan, optimizer.is_away = self, False
        self._addresses: list[int] = []
        self._look()

    def fits(self, optimizer: Any) -> bool:
        """False: an update of all parameters needs another plan."""
        return False

    def begin(self) -> None:
        """Create the state of all parameters that have none."""
        for launch in self._launches.values():
            launch.begin()

    def is_current(self, optimizer: Any) -> bool:
        """Read the numbers of this update; False if optimizer, groups, parameters or state are others than when this
        was made. Raises UsageError where parameters or their state have come to share memory."""
        optimizer.look_at_state()
        groups = optimizer.param_groups
        is_same = (
            optimizer._plan is self  # and so this optimizer, and nothing else has made a plan since
            and groups is self._groups
            and [len(group["params"]) for group in groups] == list(map(len, self._members))
            and all(all(map(is_, group["params"], own)) for group, own in zip(groups, self._members, strict=True))
            and self.rows.refresh()
        )
        try:
            return is_same and self._look()
        except Stale:
            return False

    def _look(self) -> bool:
        """True. Raises Stale for a parameter with another layout, and UsageError for memory that is shared."""
        addresses = []
        for launch in self._launches.values():
            launch.slots.check_layout()
            addresses += [tensor.data_ptr() for tensor in launch.owners if has_memory(tensor)]
        if addresses != self._addresses:
            refuse_overlaps(pair for launch in self._launches.values() for pair in launch.labelled())
            self._addresses = addresses
        return True

    def norm(self, tensor: Tensor) -> Tensor:
        """The Euclidean norm of one gradient, 0-D, fp32 or wider. Raises UsageError for a gradient that no kernel can
        read."""
        squares = self._with(tensor, lambda launch: launch.backend.squares(launch)[0])
        norm = torch.zeros((), dtype=torch.float64) if squares is None else squares.sqrt()
        return norm if tensor.dtype == torch.float64 else norm.float()

    def update(
        self, tensor: Tensor, gradient_factor: float | Tensor, found_inf: Tensor, changed: Mapping[str, float]
    ) -> None:
        """Update one parameter with its gradient times a factor; nothing changes if `found_inf` is not 0.

        Args:
            changed: hyperparameters that have another value for this update, the same in all groups.
        """
        rows = self.rows.values
        if changed:
            rows = rows.copy()
            for name, value in changed.items():
                rows[:, self.rows.names.index(name)] = value

        def run(launch: Launch) -> None:
            if launch.kind.sums:
                launch.backend.measure(launch, rows, gradient_factor)
            try:
                launch.backend.run(launch, rows, gradient_factor, found_inf)
            except BaseException:
                if launch.began:  # all of it or nothing
                    launch.finish(rows, gradient_factor, found_inf)
                raise
            finally:
                if launch.began and not tensor.is_inference():
                    torch.autograd.graph.increment_version([tensor])

        self._with(tensor, run)

    def uncount(self, tensor: Tensor) -> None:
        """Take back the count of the last update of one parameter, which was a part of an update."""
        self._launches[tensor].slots.step_counts.sub_(1)
        self._launches[tensor].slots.bring_back()

    def kinds(self) -> set[Any]:
        """The kinds of all launches."""
        return {launch.kind for launch in self._launches.values()}

    @torch.no_grad()
    def _with(self, tensor: Tensor, act: Callable[[Launch], T]) -> T | None:
        """Do something with the launch of a parameter whose gradient and addresses are read now."""
        with self._optimizer._lock:
            launch = self._launches.get(tensor)
            if launch is None:
                return None  # a matrix without elements
            try:
                found = launch.collect()
            except Stale:
                self._optimizer._kept.plan = None  # the next pass begins with what there is then
                raise UsageError(
                    f"{launch.owner}: {launch.names[0]!r} or its state has another layout than before; the next "
                    "backward pass takes it as it is"
                ) from None
            try:
                if not found:
                    return None
                launch.backend.prepare(launch)
                return act(launch)
            finally:
                launch.done()
