"""Going on with another optimizer in the middle of a run: what the schedules multiply from then on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stepwell.engine.update import innermost
from stepwell.errors import UsageError
from stepwell.schedules.apply import initial_values
from stepwell.switching import begun, rate_for, switch

if TYPE_CHECKING:
    from stepwell.step.step import Step


def switched(step: Step, to: Any, lr: Any, carry: bool, options: dict[str, Any]) -> tuple[Any, list[dict[str, Any]]]:
    """The new optimizer, whose next update has the rate `lr`, and the initial values of its groups."""
    rate = rate_for(to, lr, options)
    if "lr" in step.schedules:
        rate /= _factor(step)
    optimizer = switch(step.optimizer, to, lr=rate, carry=carry, **options)
    return optimizer, initial_values(step.schedules, optimizer.param_groups) if step.schedules else []


def to_saved(step: Step, name: str) -> Any:
    """An optimizer of the class that a checkpoint was saved with after a switch, to be loaded into."""
    return begun(step.optimizer, name)


def name_of(optimizer: Any) -> str:
    """The class of what makes the steps."""
    return type(innermost(optimizer)).__name__


def _factor(step: Step) -> float:
    """What the schedule multiplies the rate of the first group with at the next update."""
    one = step.schedules["lr"]
    if one.absolute:
        raise UsageError(
            f"Step: the schedule {one} gives rates themselves, so a rate for another optimizer has no effect; make a "
            "Step of its own for it, with stepwell.switch(step.optimizer, ...)"
        )
    group = step.optimizer.param_groups[0]
    mine = one.for_group(group.get("name", 0), 0) if one.group_keys() else one
    factor = mine(step._number) * (1.0 if step.plateau is None else step.plateau.factor)
    if factor == 0:
        raise UsageError(
            f"Step: the schedule {one} is 0 at update {step._number}, so no rate can be reached; switch before or after"
        )
    return factor
