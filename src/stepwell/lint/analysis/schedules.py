"""What is known of schedulers: whose they are, and what a condition around a step may mean."""

from __future__ import annotations

import ast
import re

from stepwell.lint.analysis.events import Branch, Event
from stepwell.lint.analysis.known import is_scheduler
from stepwell.lint.analysis.syntax import written
from stepwell.lint.analysis.values import Thing

_COUNTER = re.compile(
    r"(^|\W|_)(epochs?|steps?|iters?|iterations?|it|i|idx|batch_idx|warmup|first|start\w*|resume\w*|n|t|k|ep|"
    r"count\w*|skip\w*|"
    r"scale\w*|overflow|nan|inf|phase|stage|mode|train\w*|updates?)(\W|_|$)",
    re.I,
)


def of_torch(scheduler: Thing | None) -> bool:
    """Whether this is a scheduler of torch (or one that transformers makes), of a class that is known."""
    return (
        scheduler is not None
        and scheduler.kind == "scheduler"
        and scheduler.sure
        and scheduler.local is None
        and (is_scheduler(scheduler.cls) or bool(scheduler.either))
        and all(of_torch(one) for one in scheduler.either)
    )


def is_class(scheduler: Thing | None, *names: str) -> bool:
    """Whether this may be of one of these classes: branches may have made one or another."""
    if scheduler is None:
        return False
    return scheduler.cls.rsplit(".", 1)[-1] in names or any(is_class(one, *names) for one in scheduler.either)


def is_general(scheduler: Thing) -> bool:
    """Whether its class is chosen elsewhere: getattr(lr_scheduler, name)."""
    return is_class(scheduler, "LRScheduler", "_LRScheduler")


def drives(scheduler: Thing, optimizer: Thing | None) -> bool | None:
    """Whether a scheduler sets the rate of an optimizer; None where that is not known."""
    if optimizer is None or not scheduler.of:
        return None
    # configure_optimizers() of Lightning is followed at each call: what one call of it makes is the same
    return any(one.is_same(optimizer) or (one.made is not None and one.made is optimizer.made) for one in scheduler.of)


def counts(branch: Branch) -> bool:
    """Whether a condition may ask how far the training is, or whether a step was made."""
    return branch.test is None or bool(_COUNTER.search(branch.test))


def shared(one: Event, other: Event) -> int:
    """How many branches two events are in together."""
    number = 0
    for a, b in zip(one.branches, other.branches, strict=False):
        if a[0] is not b[0] or a[1] != b[1]:
            break
        number += 1
    return number


def receiver(event: Event) -> str:
    """The text of what a method is called on."""
    node = event.call or event.node
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return written(node.func.value)
    return event.target.name if event.target is not None else "the scheduler"
