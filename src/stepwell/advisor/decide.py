"""All choices of a recipe from the situation and what the user asks for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from stepwell.advisor.asked import Asked
from stepwell.advisor.choice import Choice
from stepwell.advisor.choosing import averaging, batch, clipping, decay, layers, lr, momentum, optimizer, precision
from stepwell.advisor.choosing import schedule as schedules
from stepwell.advisor.choosing.ground import NEAR, Ground, ground
from stepwell.advisor.choosing.optimizer import stepwell_name
from stepwell.advisor.conversion import Conversion, conversion
from stepwell.advisor.published import Published, kind_of
from stepwell.advisor.situation import Situation


@dataclass(frozen=True)
class Decided:
    """The choices, their basis, and the name of the optimizer as it was published."""

    choices: dict[str, Choice]
    ground: Ground
    published: str


def decide(one: Situation, asked: Asked, rows: tuple[Published, ...] | None = None, *, strict: bool = False) -> Decided:
    """The choices for a situation. `rows` and `strict` are as for `ground`."""
    basis = ground(one, rows, strict=strict)
    chosen = optimizer.choose(basis, asked.optimizer, one.priority)
    name = str(chosen.value)
    rule = _rule(basis, name) if asked.optimizer is not None else None
    if rule is not None:
        return Decided(_converted(basis, chosen, rule, asked), basis, rule.to)
    size, form = decay.choose(basis, name)
    if asked.optimizer is None and kind_of(name) == "adam":
        name = _by_form(name, str(form.value))
        chosen = replace(chosen, value=name)
    elif asked.optimizer is not None:
        own = decay.form_of(name)
        if form.value not in (own, "none"):
            size, form = _of_form(basis, size, own)
    choices = {"optimizer": chosen, **_rate(basis, name, chosen)}
    choices |= momentum.choose(basis, name)
    choices |= {"weight_decay": size, "decay_form": form}
    choices |= _rest(basis, name, size, asked)
    if kind_of(name) == "l-bfgs":
        said = "the line search needs the loss of one whole batch, again and again"
        choices["accumulate"] = Choice(1, said, (), "high")
        choices["warmup"] = Choice(0, said, (), "high")
    return Decided(_fixed(choices, asked), basis, name)


def _by_form(name: str, form: str) -> str:
    """Adam with decoupled decay is AdamW, whatever a framework calls it, and AdamW with L2 is Adam."""
    if form == "decoupled":
        return "AdamW" if name == "Adam" else name
    return "Adam" if form == "l2" and name in ("AdamW", "SkipStepAdamW") else name


def _of_form(basis: Ground, size: Choice, form: str) -> tuple[Choice, Choice]:
    """The decay for an optimizer with another form than that published: a size is never copied between forms."""
    votes = basis.votes(lambda row: row.decay() if row.wd_type == form else None, lambda line: None)
    if votes and basis.nearest.distance <= NEAR and form != "l2":
        value = votes[0].value[1]  # type: ignore[index]
        said = f"published in the form {form}; a size is never copied from another form"
        return Choice(value, said, votes[0].sources, "low"), Choice(form, said, votes[0].sources, "medium")
    said = f"published here in another form than {form}, which this optimizer has; a size is never copied between forms"
    return Choice(0.0, said, size.sources, "low", "an optimizer with decoupled decay"), Choice("none", said, (), "low")


def _rate(basis: Ground, name: str, chosen: Choice) -> dict[str, Choice]:
    found = lr.choose(basis, name)
    if found is not None:
        return {"lr": found}
    from stepwell.optimizers import find

    facts = find(stepwell_name(name)).facts
    low, high = facts.lr_range("cnn" if basis.situation.backbone == "cnn" else "transformer")
    middle = float(f"{(low * high) ** 0.5:.2g}")
    said = f"no published configuration of {name}: the middle of the rates worth trying for this optimizer"
    return {"lr": Choice(middle, said, (facts.source,), "low", "a search: stepwell.find_lr", low, high)}


def _rule(basis: Ground, name: str) -> Conversion | None:
    """The conversion to an optimizer that nothing near was published with."""
    rule = conversion(stepwell_name(name))
    mine = basis.among(kind_of(name))
    near = bool(mine) and mine[0][0].distance <= NEAR and mine[0][0].row.lr is not None and kind_of(name) != "adam"
    return None if rule is None or near or rule.to == "ScheduleFreeSGD" else rule


def _converted(basis: Ground, chosen: Choice, rule: Conversion, asked: Asked) -> dict[str, Choice]:
    """The choices by a conversion from AdamW."""
    said = f"converted from AdamW: {rule.words}"
    base = lr.choose(basis, "AdamW")
    size, _ = decay.choose(basis, "AdamW")
    choices = {"optimizer": replace(chosen, reason=f"{chosen.reason}. {said}", sources=(*chosen.sources, rule.source))}
    if rule.fixed or base is None:
        rate = Choice(rule.lr, said, (rule.source,), "medium", "", rule.low, rule.high)
    else:
        start, low, high = float(base.value), base.low or 0.0, base.high or 0.0  # type: ignore[arg-type]
        value = float(f"{start * rule.lr:.3g}")
        rate = Choice(value, f"{said}; AdamW here {start:.3g}", (rule.source, *base.sources), "low",
                      "a search: "
                      "stepwell.find_lr", float(f"{low * rule.low:.3g}"), float(f"{high * rule.high:.3g}"))  # fmt: skip
    choices["lr"] = rate
    choices |= momentum.choose(basis, rule.to)
    if rule.to == "Lion" and basis.situation.family in ("lm_pretraining", "new_optimizer"):
        choices["betas"] = Choice([0.95, 0.98], "for language models", (rule.source,), "medium")
    amount = float(size.value or 0) if rule.decay_fixed is None else rule.decay_fixed  # type: ignore[arg-type]
    amount = float(f"{amount * (rule.decay if rule.decay_fixed is None else 1):.3g}")
    form = "decoupled" if amount else "none"
    choices["weight_decay"] = Choice(amount, said, (rule.source, *size.sources), "low")
    choices["decay_form"] = Choice(form, "the form of this optimizer", (rule.source,), "high")
    choices |= _rest(basis, rule.to, choices["weight_decay"], asked)
    if rule.schedule:
        choices["schedule"] = Choice(rule.schedule, said, (rule.source,), "high")
        choices["lr_end"] = Choice(None, "this schedule has no end value", (), "high")
    return _fixed(choices, asked)


def _rest(basis: Ground, name: str, size: Choice, asked: Asked) -> dict[str, Choice]:
    one = basis.situation
    return {
        **layers.choose(basis, float(size.value or 0), name),  # type: ignore[arg-type]
        **schedules.choose(basis, name),
        "clip_norm": clipping.choose(basis),
        **batch.choose(basis, asked.micro_batch),
        **precision.choose(basis, name),
        "ema": averaging.choose(basis),
        "steps": Choice(
            None if one.updates is None else round(one.updates),
            "given, or epochs times samples over the batch size" if one.updates else "not given: build() asks for it",
            (),
            "high" if one.total_steps else "medium",
        ),
    }


def _fixed(choices: dict[str, Choice], asked: Asked) -> dict[str, Choice]:
    """The choices with what the user fixes; the published value and range stay in the reason."""
    given: dict[str, Any] = {
        "lr": asked.lr, "weight_decay": asked.weight_decay, "nesterov": asked.nesterov, "eps": asked.eps,
        "betas": None if asked.betas is None else list(asked.betas), "clip_norm": asked.clip_norm,
    }  # fmt: skip
    for name, value in given.items():
        if value is not None and name in choices:
            old = choices[name]
            said = f"given; published near this: {old}"
            choices[name] = replace(old, value=value, reason=said, would_change="")
    if asked.weight_decay:
        own = decay.form_of(str(choices["optimizer"].value))
        choices["decay_form"] = Choice(own, "the form of this optimizer", (), "high")
    return choices
