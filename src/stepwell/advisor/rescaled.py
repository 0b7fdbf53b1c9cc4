"""A recipe at another batch size, number of devices, or width of the model."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from stepwell.advisor import scaling
from stepwell.advisor.choice import Choice
from stepwell.advisor.published import kind_of
from stepwell.arguments import number, whole
from stepwell.errors import UsageError

if TYPE_CHECKING:
    from stepwell.advisor.recipe import Recipe

_LLAMA = "MLPerf's reference points of Llama 3.1 405B"


def rescaled(recipe: Recipe, *, batch_size: Any, devices: Any, width: Any, steps: Any) -> Recipe:
    """The recipe by published rules; see `Recipe.scaled`."""
    if batch_size is None and devices is None and width is None:
        raise UsageError("scaled: give batch_size, devices or width")
    if batch_size is not None and devices is not None:
        raise UsageError("scaled: batch_size and devices both set the batch; give one")
    found, notes = recipe, list(recipe.notes)
    if width is not None:
        found = _wider(found, float(number("scaled", "width", width, above=0)), notes)
    if devices is not None:
        count = whole("scaled", "devices", devices, least=1)
        ratio = count / recipe.situation.devices
        found = replace(found, situation=replace(found.situation, devices=count))
        batch_size = _batch(recipe) * ratio
    if batch_size is not None:
        found = _at(found, float(number("scaled", "batch_size", batch_size, above=0)), steps, notes)
    return replace(found, notes=tuple(notes))


def _batch(recipe: Recipe) -> float:
    one = recipe.situation
    if one.batch_size is not None and one.batch_in_samples is None:
        raise UsageError(
            f"scaled: the batch size is in {one.batch_unit!r}, per device or in an unknown unit; "
            "give the batch size of one update to advise()"
        )
    size = recipe.value("batch_size")
    if size is None:
        raise UsageError("scaled: the batch size of the recipe is not known; give batch_size to advise()")
    return float(size)


def _at(recipe: Recipe, new: float, steps: Any, notes: list[str]) -> Recipe:
    old = _batch(recipe)
    kind, ratio = kind_of(recipe.published_optimizer), new / old
    rate = scaling.lr(recipe.lr, kind, old, new)
    choices = dict(recipe.choices)
    lr = choices["lr"]
    power = scaling.exponent(kind)
    wider = math.sqrt(max(1.0, ratio, 1 / ratio)) if scaling.far(ratio) else 1.0
    rule = {1.0: "1706.02677", 0.5: "2205.10287, 1904.00962"}.get(power, "DLRM-DCNv2 of MLPerf")
    choices["lr"] = replace(
        lr,
        value=float(f"{rate.value:.3g}"),
        low=None if lr.low is None else _digits(lr.low * ratio**power / wider),
        high=None if lr.high is None else _digits(lr.high * ratio**power * wider),
        reason=f"scaled from batch {old:g} to {new:g}: {rate.words}. Exponents tuned for adaptive optimizers in MLPerf "
        "run from 0 to 1, median 0.44",
        sources=(rule, *lr.sources),
        sure="low" if rate.warning else "medium",
    )
    if rate.warning:
        notes.append(f"warning: {rate.warning}")
    if recipe.situation.family in scaling.FIXED:
        notes.append(
            f"warning: published rates of the family {recipe.situation.family} do not follow the batch size; "
            f"the unscaled rate {recipe.lr:g} is as good a guess"
        )
    warmup = recipe.value("warmup")
    if isinstance(warmup, int) and warmup:
        rise = scaling.warmup(warmup, old, new)
        said = f"as many samples as {warmup} steps of batch {old:g}; LAMB and LARS keep epochs growing instead"
        choices["warmup"] = replace(choices["warmup"], value=rise, reason=said, sources=(_LLAMA,))
    betas = recipe.value("betas")
    if betas is not None and kind in ("adam", "lamb"):
        value = float(f"{min(max(scaling.beta2(betas[1], old, new), 0.5), 0.99999):.6g}")
        said = f"beta2 {betas[1]:g} keeps its half-life in samples"
        if not 0.8 <= value <= 0.9999:
            said += "; so far from usual values that a search is due"
        choices["betas"] = replace(
            choices["betas"], value=[betas[0], value], reason=said, sources=("2507.07101",), sure="low"
        )
    if recipe.weight_decay and recipe.decay_form == "decoupled":
        choices["weight_decay"] = _decay(recipe, choices["weight_decay"], rate.value, old, new)
    total = recipe.value("steps")
    given = whole("scaled", "steps", steps, least=1) if steps is not None else None
    if given is not None or total is not None:
        length = given if given is not None else max(1, round(float(total or 1) * old / new))
        said = "given" if given is not None else f"as many samples as {total} updates of batch {old:g}"
        choices["steps"] = Choice(length, said, (), "high")
    choices["batch_size"] = Choice(new, f"scaled from {old:g}", (), "high")
    one = recipe.situation
    length_of_run: Any = choices["steps"].value
    situation = replace(one, batch_size=new, total_steps=length_of_run, origin={**one.origin, "batch_size": "given"})
    return replace(recipe, situation=situation, choices=choices)


def _decay(recipe: Recipe, choice: Choice, lr: float, old: float, new: float) -> Choice:
    """Decoupled decay whose timescale in samples, batch / (lr * weight_decay), stays."""
    value = float(f"{recipe.weight_decay * (new / old) * (recipe.lr / lr):.3g}")
    before = scaling.decay_timescale(recipe.lr, recipe.weight_decay, old, None)
    after = scaling.decay_timescale(lr, value, new, None)
    said = f"the timescale 1 / (lr * weight_decay) keeps its samples: {before} of {old:g}, {after} of {new:g}"
    return replace(choice, value=value, reason=said, sources=("2405.13698",), sure="medium")


def _wider(recipe: Recipe, width: float, notes: list[str]) -> Recipe:
    """muP for Adam-type optimizers: the rate of the hidden matrices falls with the width."""
    kind = kind_of(recipe.published_optimizer)
    if kind == "muon":
        notes.append(
            "Muon's rate of matrices is constant in width (nanochat); that of AdamW's groups falls with width^-0.5"
        )
        return recipe
    if kind != "adam":
        raise UsageError(
            f"scaled: no published rule for the width with {recipe.optimizer}; there is one for Adam-type "
            f"optimizers (muP)"
        )
    lr = recipe["lr"]
    choices = dict(recipe.choices)
    choices["lr"] = replace(
        lr,
        value=float(f"{recipe.lr / width:.3g}"),
        low=None if lr.low is None else _digits(lr.low / width),
        high=None if lr.high is None else _digits(lr.high / width),
        reason=f"hidden matrices, {width:g} times wider: lr / {width:g}. Embeddings and vectors keep {recipe.lr:g}",
        sources=("muP, 2203.03466", *lr.sources),
        sure="low",
    )
    choices["groups"] = Choice(
        f"hidden matrices {recipe.lr / width:.3g}; embeddings, norms and biases {recipe.lr:g}",
        "muP needs its own initialization and attention scale 8 / d as well",
        ("muP, 2203.03466",),
        "low",
    )
    if max(width, 1 / width) > scaling.FARTHEST:
        notes.append(f"warning: the width changes {width:g} times; search the learning rate again (stepwell.find_lr)")
    return replace(recipe, choices=choices)


def _digits(value: float) -> float:
    return float(f"{value:.3g}")
