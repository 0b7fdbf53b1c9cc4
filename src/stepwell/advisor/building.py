"""From a recipe to the optimizer and the Step over a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from stepwell.advisor.conversion import conversion
from stepwell.advisor.schedules_of import plateau, schedule
from stepwell.arguments import number, whole
from stepwell.errors import UsageError, shown

if TYPE_CHECKING:
    from stepwell.advisor.recipe import Recipe
    from stepwell.groups import Forecast
    from stepwell.step import Step


# Optimizers without weight decay, which take one group of all parameters.
PLAIN = ("LBFGS", "SparseAdam", "Rprop")


def options(recipe: Recipe) -> dict[str, Any]:
    """The arguments of the optimizer besides lr, weight_decay and state."""
    found: dict[str, Any] = {}
    names = {
        "SGD": ("momentum", "nesterov"), "LARS": ("momentum",), "RMSprop": ("momentum", "alpha", "eps"),
        "Muon": ("momentum",), "Adan": (), "Shampoo": (), "LBFGS": (), "Adafactor": (), "Adagrad": (), "ASGD": (),
        "SparseAdam": ("betas", "eps"), "Rprop": (), "ScheduleFreeSGD": ("momentum",),
    }.get(recipe.optimizer, ("betas", "eps"))  # fmt: skip
    for name in names:
        value = recipe.value(name)
        if value is not None:
            found[name] = tuple(value) if name == "betas" else value
    rule = conversion(recipe.optimizer)
    if rule is not None and recipe.optimizer not in ("Muon", "Adafactor"):
        found |= dict(rule.options)
    if recipe.optimizer == "Muon":
        found["adjust_lr_fn"] = "match_rms_adamw" if recipe.lr < 5e-3 else None
    if recipe.optimizer == "Adafactor" and rule is not None:
        found |= dict(rule.options)
    if recipe.optimizer == "NAdam" and recipe.decay_form == "decoupled":
        found["decoupled_weight_decay"] = True
    if recipe.optimizer == "RMSprop" and recipe.published_optimizer == "RMSpropTF":
        found["variant"] = "tensorflow"
    return found


def optimizer(recipe: Recipe, model: nn.Module, lr: float) -> torch.optim.Optimizer:
    """The optimizer over the model's parameters, in groups."""
    from stepwell.groups import by_role
    from stepwell.optimizers import create

    given = options(recipe)
    state = {} if recipe.value("state") in (None, "fp32") else {"state": recipe.value("state")}
    decay = recipe.weight_decay if recipe.decay_form != "none" else 0.0
    exempt = tuple(recipe.value("exempt") or ())
    if recipe.optimizer in PLAIN:
        return create(recipe.optimizer, model, lr=lr, **given)
    if recipe.optimizer == "Muon":
        inner = min(lr, 3e-4) if given["adjust_lr_fn"] is None else lr
        return create("Muon", model, lr=lr, weight_decay=decay, adamw_lr=inner, **given, **state)
    groups = by_role(
        model, lr=lr, weight_decay=decay, no_decay=exempt if decay else (), layer_decay=recipe.value("layer_decay")
    )
    return create(recipe.optimizer, groups, lr=lr, weight_decay=decay, **given, **state)


def built(recipe: Recipe, model: Any, steps: Any, lr: Any) -> tuple[torch.optim.Optimizer, Step]:
    """The optimizer and the Step; see `Recipe.build`."""
    from stepwell.step import Step

    if not isinstance(model, nn.Module):
        raise UsageError(f"build: model={shown(model)}; it must be a torch.nn.Module")
    total = recipe.value("steps") if steps is None else whole("build", "steps", steps, least=1)
    if total is None and recipe.schedule not in ("constant", "plateau", "inverse_sqrt"):
        raise UsageError(
            f"build: the schedule {recipe.schedule} needs the updates of the run; give steps, as steps=10_000"
        )
    rate = recipe.lr if lr is None else float(number("build", "lr", lr, least=0))
    made = optimizer(recipe, model, rate)
    length = int(total) if total is not None else 10_000
    extra: dict[str, Any] = {}
    if recipe.optimizer == "Sophia":
        from stepwell.step import Hutchinson

        extra["estimator"] = Hutchinson()
    ema = recipe.value("ema")
    rule = schedule(recipe, length)
    step = Step(
        made,
        rule,
        recipe.value("clip_norm"),
        int(recipe.value("accumulate") or 1),
        ema=ema,
        plateau=plateau(recipe),
        total_steps=None if total is None or rule is None else length,
        model=model,
        **extra,
    )
    return made, step


def forecast(recipe: Recipe, model: Any) -> Forecast:
    """The memory of training; see `Recipe.forecast`."""
    from stepwell.groups import by_role
    from stepwell.groups import forecast as of_groups

    if not isinstance(model, nn.Module):
        raise UsageError(f"forecast: model={shown(model)}; it must be a torch.nn.Module")
    available = None if recipe.situation.memory is None else int(recipe.situation.memory * 2**30)
    return of_groups(
        by_role(model, lr=recipe.lr, no_decay=()),
        optimizer=recipe.optimizer.lower(),
        state=recipe.value("state") or "fp32",
        averages=0 if recipe.value("ema") is None else 1,
        buffers=model.buffers(),
        available=available,
        where="one device" if available else "",
    )
