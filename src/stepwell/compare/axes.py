"""The hyperparameters that a comparison tunes, in the order that tuning guides give: the rate first, then the momentum,
then the decay, then the warmup.

Sources: Godbole, Dahl, Gilmer, Shallue and Nado, Deep Learning Tuning Playbook, 2023; Choi et al., On Empirical
Comparisons of Optimizers for Deep Learning, arXiv 1910.05446 (search spaces of momentum and 1 - beta).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from stepwell.compare.search import Axis
from stepwell.errors import UsageError, nearest, shown

if TYPE_CHECKING:
    from stepwell.compare.plan import Contender

WARMUP = 0.05  # of the run: enough for adaptive moments to settle, too little to matter for the rest
# what `--tune` may name, in the order of tuning
TUNABLE = ("lr", "betas", "momentum", "decay", "warmup")
DECAY = 0.01  # where an optimizer has a decay and its default is 0


def checked(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names in the order of tuning, lr always first. Raises UsageError for an unknown one."""
    for name in names:
        if name not in TUNABLE:
            raise UsageError(f"compare: tune={shown(name)}; {nearest(name, TUNABLE)}; it may be {', '.join(TUNABLE)}")
    return tuple(name for name in TUNABLE if name == "lr" or name in names)


def axes(contender: Contender) -> list[Axis]:
    """What is tuned of one optimizer, in order. A name that an optimizer does not have is its rate once more, so that
    every optimizer gets the same number of trials."""
    rate = Axis("lr", contender.low, contender.high)
    found = [rate]
    for name in contender.tune[1:]:
        found += _of(name, contender) or [rate]
    return found


def _of(name: str, contender: Contender) -> list[Axis]:
    defaults = defaults_of(contender)
    if name in ("betas", "momentum"):
        betas = defaults.get("betas")
        if name == "betas" and isinstance(betas, (tuple, list)) and len(betas) == 2:
            return [Axis("beta1", 0.5, 0.99, 0.0, 0.9999, True)]
        if isinstance(defaults.get("momentum"), (int, float)):
            return [Axis("momentum", 0.5, 0.99, 0.0, 0.9999, True)]
        return []
    if name == "decay" and isinstance(defaults.get("weight_decay"), (int, float)):
        usual = float(defaults["weight_decay"]) or DECAY
        return [Axis("weight_decay", usual / 30, usual * 30, 1e-9, 1e2)]
    if name == "warmup" and contender.schedule in ("decay", "warmup"):
        return [Axis("warmup", 0.01, 0.3, 0.001, 0.9)]
    return []


def defaults_of(contender: Contender) -> dict[str, Any]:
    """The arguments of an optimizer: its defaults, and what the comparison sets."""
    from stepwell.optimizers import find

    names = [contender.optimizer, *([contender.options["base"]] if "base" in contender.options else [])]
    found: dict[str, Any] = {}
    for name in reversed(names):
        for key, parameter in inspect.signature(find(name)).parameters.items():
            if parameter.default is not inspect.Parameter.empty:
                found[key] = parameter.default
    return {**found, **contender.options}


def start(axis: Axis, contender: Contender) -> float | None:
    """The value that an optimizer has of a hyperparameter where nothing is tuned."""
    defaults = defaults_of(contender)
    if axis.name == "beta1":
        value = defaults["betas"][0]
    elif axis.name == "warmup":
        value = WARMUP
    else:
        value = defaults.get(axis.name)
    return float(value) if isinstance(value, (int, float)) and axis.allows(float(value)) and value else None


def applied(contender: Contender, settings: Mapping[str, float]) -> dict[str, Any]:
    """The arguments of an optimizer with the settings of one trial; the warmup is a matter of the schedule."""
    options = dict(contender.options)
    for name, value in settings.items():
        if name == "beta1":
            options["betas"] = (value, *list(defaults_of(contender)["betas"])[1:])
        elif name != "warmup":
            options[name] = value
    return options
