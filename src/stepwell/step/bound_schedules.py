"""Line 8: the schedules, bound to the groups of an optimizer whose hyperparameters they drive."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stepwell.arguments import mapping, refusal
from stepwell.errors import UsageError, shown
from stepwell.schedules.apply import Schedules, apply, initial_values, resolve
from stepwell.schedules.base import Schedule
from stepwell.schedules.plateau import Plateau, checked_plateau
from stepwell.schedules.smooth import constant
from stepwell.schedules.written import forget, note, take_the_place_of_initial
from stepwell.step.manual_values import taken_by_hand
from stepwell.step.model_and_optimizer import Trained
from stepwell.step.overrides import say_of_factors
from stepwell.step.part import PutBack, copy_kept, try_state
from stepwell.step.progress import Progress, check_count


class Bound:
    """The schedules of a Step, and the values that they multiply. The checkpoint stores the number of the update that
    the schedules have reached; everything else about them is in the optimizer's groups.

    Attributes:
        trained: the optimizer whose groups are driven.
        schedules: the schedule of each hyperparameter.
        initial: for each group, the values that the factors multiply.
        overrides: values that replace those of the checkpoint being loaded.
    """

    def __init__(
        self, trained: Trained, progress: Progress, schedule: Schedules | None, total_steps: int | None, plateau: Any
    ) -> None:
        self.trained, self.progress = trained, progress
        self.plateau = checked_plateau("Step", plateau)
        self.schedules = _resolved(schedule, total_steps, self.plateau)
        self.initial: list[dict[str, Any]] = []
        self.overrides: Mapping[str, Any] = {}
        ends = [one.horizon for one in self.schedules.values() if one.horizon is not None]
        self._horizon = min(ends) if ends else None
        self.said_base: tuple[int, str] = (-1, "")  # the update and the name of which `by_hand` has warned last
        self._at = 0  # the number of updates that stands in the groups

    def start(self) -> None:
        """Write the hyperparameters of the first update."""
        if self.schedules:
            optimizer = self.trained.optimizer
            take_the_place_of_initial(optimizer, self.schedules)
            self.initial = initial_values(self.schedules, optimizer.param_groups, stacklevel=3)
            self.write()

    @property
    def lr_factor(self) -> float:
        """The factor by which the plateau multiplies lr."""
        return 1.0 if self.plateau is None else self.plateau.factor

    @property
    def is_behind(self) -> bool:
        """Whether the groups hold the hyperparameters of another update."""
        return self._at != self.progress.number

    def refresh(self) -> None:
        """At the beginning of a call: write the hyperparameters that an interrupted call did not write, over values set
        by hand."""
        if self.is_behind or (self.schedules and taken_by_hand(self)):
            self.write()

    def write(self) -> None:
        """Write the hyperparameters of the next update into the groups."""
        if self.schedules:
            taken_by_hand(self)
            groups = self.trained.optimizer.param_groups
            if len(self.initial) < len(groups):  # groups that came later: their lr now is their initial one
                without = {name: one.for_group("") for name, one in self.schedules.items()}
                self.initial += initial_values(without, groups[len(self.initial) :])
            forget(self.trained.optimizer)  # what an interrupted call wrote was not set by hand
            self._apply()
        self._at = self.progress.number

    def write_back(self) -> None:
        """Restore the values that the schedules wrote, after a value set by hand was refused."""
        for group, values in zip(self.trained.optimizer.param_groups, self.initial, strict=False):
            group.update({f"initial_{name}": value for name, value in values.items()})
        self._apply()

    def _apply(self) -> None:
        optimizer = self.trained.optimizer
        apply(self.schedules, optimizer.param_groups, self.initial, self.progress.number, lr_factor=self.lr_factor)
        note(optimizer, self.schedules)

    def has_ended(self) -> bool:
        """Whether the schedules may have no value for the next update; the outcome of the last update may be
        pending."""
        return self._horizon is not None and self.progress.begun >= self._horizon

    def check_horizon(self) -> None:
        """Raise UsageError past the end of the schedules."""
        number = self.progress.number
        if self._horizon is not None and number >= self._horizon:
            ended = ", ".join(str(one) for one in self.schedules.values())
            raise UsageError(
                f"Step: the schedule {ended} has {self._horizon} steps and {number} updates have happened; "
                "make it longer, or end it with .hold()"
            )

    def observe(self, metric: Any) -> None:
        """Pass a metric to the plateau."""
        if self.plateau is None:
            raise UsageError("Step: observe() needs a plateau; make it with Step(..., plateau=Plateau())")
        self.plateau.observe(metric)
        self.write()

    # A switch to another optimizer

    def rate_of_new(self, rate: float) -> float:
        """The base of another optimizer's lr for which the next update uses the rate `rate`."""
        return rate / self._factor() if "lr" in self.schedules else rate

    def _factor(self) -> float:
        """The factor by which the schedule multiplies the rate of the first group at the next update."""
        one, number = self.schedules["lr"], self.progress.number
        if one.absolute:
            raise UsageError(
                f"Step: the schedule {one} gives learning rates and not factors, so a rate for the new optimizer has "
                "no effect; make "
                "a new Step for it, with stepwell.switch(step.optimizer, ...)"
            )
        group = self.trained.optimizer.param_groups[0]
        mine = one.for_group(group.get("name", 0), 0) if one.group_keys() else one
        factor = mine(number) * self.lr_factor
        if factor == 0:
            raise UsageError(
                f"Step: the schedule {one} is 0 at update {number}, so no rate can be reached; switch before or after"
            )
        return factor

    def initial_of(self, optimizer: Any) -> list[dict[str, Any]]:
        """The values that the factors would multiply in the groups of another optimizer."""
        return initial_values(self.schedules, optimizer.param_groups) if self.schedules else []

    # As a part

    def state_dict(self) -> int:
        return self.progress.number

    def check_state(self, state: Any) -> None:
        check_count("number", state)
        if self._horizon is not None and state > self._horizon:
            raise UsageError(
                f"Step: the checkpoint is from update {state}, and the schedule has {self._horizon} steps; "
                "make it longer, or end it with .hold()"
            )

    def load_state_dict(self, state: Any) -> None:
        """Continue at an update, with the loaded values in the groups."""
        self.progress.number = state
        forget(self.trained.optimizer)
        if self.schedules:
            self.initial = self.initial_of(self.trained.optimizer)
            with say_of_factors(self):
                self.write()
        self._at = state

    def kept(self) -> PutBack:
        number, initial, at = self.progress.number, list(self.initial), self._at

        def put_back() -> None:
            self.progress.number, self.initial, self._at = number, initial, at

        return put_back


class Reduction:
    """The Plateau of the bound schedules, as a part of checkpoints."""

    def __init__(self, bound: Bound) -> None:
        self._bound = bound

    def state_dict(self) -> dict[str, Any] | None:
        plateau = self._bound.plateau
        return None if plateau is None else plateau.state_dict()

    def check_state(self, state: Any) -> None:
        if self._bound.plateau is not None:
            try_state("plateau", self._bound.plateau, state)

    def load_state_dict(self, state: Any) -> None:
        if self._bound.plateau is not None:
            self._bound.plateau.load_state_dict(state)

    def kept(self) -> PutBack:
        plateau = self._bound.plateau
        return (lambda: None) if plateau is None else copy_kept(plateau)


def _resolved(schedule: Schedules | None, total_steps: int | None, plateau: Plateau | None) -> dict[str, Schedule]:
    if isinstance(schedule, Plateau):
        raise UsageError("Step: a Plateau has state and is not a schedule; pass plateau=Plateau(...)")
    if schedule is None:
        if total_steps is not None:
            given = shown(total_steps)
            raise UsageError(f"Step: total_steps={given} has no effect without a schedule; leave it out")
        schedule = constant() if plateau is not None else None
    return {} if schedule is None else resolve(schedule, total_steps)


def checked_table(schedules: Any) -> dict[str, Schedule]:
    """The schedules to set, or UsageError."""
    given = mapping("Step", "schedules", schedules, "a dict that maps hyperparameters to schedules")
    for name, one in given.items():
        if not isinstance(name, str) or not isinstance(one, Schedule):
            raise refusal("Step", "schedules", schedules, "a dict that maps hyperparameters to schedules")
    return given
