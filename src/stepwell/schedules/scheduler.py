"""A schedule as a torch.optim.lr_scheduler.LRScheduler, for trainers that need one."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from stepwell.arguments import refusal, whole
from stepwell.errors import UsageError, shown
from stepwell.schedules.apply import Schedules, apply, initial_values, put_back_if_refused, resolve
from stepwell.schedules.plateau import Plateau, checked_plateau
from stepwell.schedules.written import forget, note, set_by_hand, take_the_place_of_initial


class Scheduler(LRScheduler):
    """Drives the groups of an optimizer by a schedule, with torch's interface.

    Call `step()` after each update, as with torch's schedulers. The values are computed from the step number, never
    from the previous values. So the checkpoint is the step number, and the order of loading does not matter.

    Args:
        optimizer: any torch.optim.Optimizer.
        schedule: a schedule for lr, or a dict of schedules: {"lr": ..., "weight_decay": ..., "betas": ...,
            "momentum": ...} (see `apply`).
        total_steps: the updates of the run, if known. Fractions are then resolved, and a schedule that does not fit
            the run is refused.
        plateau: a Plateau whose factor multiplies lr; pass the metric to `observe`.

    Accelerate calls a prepared scheduler once per update and process: count `total_steps` in the same way, or prepare
    with `Accelerator(step_scheduler_with_optimizer=False)` and call `step()` only after updates.

    A value set by hand in a group (`group["lr"] = 0.02`) is the new base of its schedule from the next `step()` on; a
    warning says so once the schedule has started. Values written by another scheduler are not taken as set by hand.

    A group that is added later follows the schedule from the next `step()` on; its lr at that time is its initial lr.

    >>> scheduler = Scheduler(optimizer, warmup(0.05).then(cosine(to=0.1)), total_steps=10_000)
    >>> scheduler.state_dict()
    {'step': 0}

    Raises UsageError for a schedule that does not fit `total_steps` or needs it, and for a schedule of a hyperparameter
    that the optimizer does not have.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        schedule: Schedules,
        *,
        total_steps: int | None = None,
        plateau: Plateau | None = None,
    ) -> None:
        if not isinstance(optimizer, Optimizer):
            raise UsageError(
                f"Scheduler: {type(optimizer).__name__} is not a torch.optim.Optimizer; pass the optimizer first"
            )
        if isinstance(schedule, Plateau):
            raise UsageError(
                "Scheduler: a Plateau has state and is not a schedule; pass constant(), plateau=Plateau(...)"
            )
        self.schedules = resolve(schedule, total_steps)
        self.plateau = checked_plateau("Scheduler", plateau)
        horizons = [one.horizon for one in self.schedules.values() if one.horizon is not None]
        if horizons:
            self.total_steps = horizons[0]  # where it is set, trainers do not step past it
        with put_back_if_refused(optimizer.param_groups):
            take_the_place_of_initial(optimizer, self.schedules)
            self.initial = initial_values(self.schedules, optimizer.param_groups)
            apply(self.schedules, optimizer.param_groups, self.initial, 0)  # before torch wraps the optimizer's step
        note(optimizer, self.schedules)
        optimizer.register_load_state_dict_post_hook(forget)  # what a checkpoint brings was not set by hand
        super().__init__(optimizer)

    def get_lr(self) -> list[Any]:
        """The learning rate of each group, for torch's internal use; users call `get_last_lr`."""
        return [group["lr"] for group in self.optimizer.param_groups]

    @property
    def _step_count(self) -> int:
        """The number of calls of `step` as torch counts them: one more than updates.

        The count is computed from `last_epoch` and cannot be increased from outside. Accelerate increases it with
        `adjust_scheduler` (by one for each micro-batch without an update) and stops calling `step` when it exceeds
        `total_steps`, so a schedule in updates would stop long before its end.
        """
        return self.last_epoch + 1

    @_step_count.setter
    def _step_count(self, count: int) -> None:
        pass

    def step(self, epoch: int | None = None) -> None:
        """Write the hyperparameters of the next update. Call `step` after each update.

        Args:
            epoch: jump to this step instead of the next one (torch deprecates this).

        Raises UsageError past the horizon, before anything is changed.
        """
        step = self.last_epoch + 1 if epoch is None else whole("Scheduler", "step", epoch)
        if epoch is None:
            self._take_what_was_set()
        self._write(step)
        super().step(epoch)
        note(self.optimizer, self.schedules)  # torch has filled tensors once more

    def _update_lr(self, epoch: int | None = None) -> None:
        if epoch is not None:  # torch's SequentialLR comes in here when it hands over, past `step`
            self._write(whole("Scheduler", "step", epoch))
        super()._update_lr(epoch)

    def _write(self, step: int) -> None:
        groups = self.optimizer.param_groups
        for group in groups[len(self.initial) :]:
            self.initial += initial_values(self._without_groups(), [group])
            self.base_lrs.append(group.get("initial_lr", group["lr"]))
        factor = 1.0 if self.plateau is None else self.plateau.factor
        apply(self.schedules, groups, self.initial, step, lr_factor=factor)
        note(self.optimizer, self.schedules)

    def _take_what_was_set(self) -> None:
        """Use values set by hand in the groups as the base of the schedules."""
        groups, found = self.optimizer.param_groups, set_by_hand(self.optimizer, self.schedules)
        if not found or any(map(self._is_beside, gc.get_objects())):
            return
        for place, values in enumerate(found[: len(self.initial)]):
            for name, value in values.items():
                one = self.schedules[name]
                if not place and (self.last_epoch or one.absolute):  # at the beginning nobody means anything else
                    then = (
                        f"but {one} gives values and not factors"
                        if one.absolute
                        else f"this value is the new base of {one}"
                    )
                    warnings.warn(f"Scheduler: {name} was set to {shown(value)} by hand: {then}", stacklevel=3)
                if one.absolute:
                    continue
                self.initial[place] = {**self.initial[place], name: _plain(value)}
                groups[place][f"initial_{name}"] = _plain(value)
                if name == "lr":
                    self.base_lrs[place] = _plain(value)

    def _is_beside(self, other: Any) -> bool:
        # issubclass of the type: isinstance asks an object for its __class__, and some do things then
        kind = issubclass(type(other), LRScheduler) and other is not self
        return kind and getattr(other, "optimizer", None) is self.optimizer

    def _without_groups(self) -> dict[str, Any]:
        """The schedules without their factors per group, for a single new group that these do not name."""
        return {name: one.for_group("") for name, one in self.schedules.items()}

    def observe(self, metric: Any) -> None:
        """Pass a metric to the Plateau; a lower rate takes effect at the next update."""
        if self.plateau is None:
            raise UsageError("Scheduler: observe() needs a plateau; make it with Scheduler(..., plateau=Plateau())")
        self.plateau.observe(metric)
        self._rewrite()

    def _rewrite(self) -> None:
        self._write(self.last_epoch)
        self._last_lr = [_plain(group["lr"]) for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """The step number (and the state of a Plateau): everything else is computed from it."""
        state: dict[str, Any] = {"step": self.last_epoch}
        if self.plateau is not None:
            state["plateau"] = self.plateau.state_dict()
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load the state of a Scheduler, or of a torch scheduler (its `last_epoch`)."""
        if not isinstance(state_dict, Mapping):
            raise refusal("Scheduler", "state_dict", state_dict, "the result of state_dict()")
        step = state_dict.get("step", state_dict.get("last_epoch"))
        if step is None:
            keys = ", ".join(map(shown, list(state_dict)[:9]))
            raise UsageError(
                f"Scheduler: the state has neither 'step' nor 'last_epoch', only {keys}; "
                "is it the state of a scheduler?"
            )
        step = whole("Scheduler", "step of the checkpoint", step)
        if self.plateau is None:
            if "plateau" in state_dict:
                raise UsageError(
                    "Scheduler: the checkpoint has a 'plateau'; make this Scheduler with plateau=Plateau(...) as well"
                )
            self._write(step)
        else:
            if "plateau" not in state_dict:
                raise UsageError("Scheduler: the checkpoint has no 'plateau', so the Plateau starts without its state")
            before = self.plateau.state_dict()
            self.plateau.load_state_dict(state_dict["plateau"])
            try:
                self._write(step)
            except BaseException:
                self.plateau.load_state_dict(before)
                raise
        self.last_epoch = step
        self._rewrite()

    def __repr__(self) -> str:
        schedules = ", ".join(f"{name}: {one}" for name, one in self.schedules.items())
        return f"Scheduler({schedules}, step {self.last_epoch})"


def _plain(value: Any) -> Any:
    return value.clone() if hasattr(value, "clone") else value
