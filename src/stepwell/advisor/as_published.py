"""A recipe with what a published configuration states in place of what was estimated."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from stepwell.advisor.asked import Asked
from stepwell.advisor.choice import Choice, Value
from stepwell.advisor.choosing import decay as decays
from stepwell.advisor.choosing.layers import _roles
from stepwell.advisor.making import made
from stepwell.advisor.published import Published, schedule_kind

if TYPE_CHECKING:
    from stepwell.advisor.recipe import Recipe


def as_published(base: Recipe, row: Published) -> Recipe:
    """The recipe `base` with the values that the row states. Values that the row does not state keep their doubt."""
    filled = made(type(base), base.situation, Asked(optimizer=_asked(row)), base.notes, name=row.id)
    choices = dict(filled.choices)

    def stated(name: str, value: Value, also: str = "") -> None:
        said = f"stated by the source{': ' + also if also else ''}"
        choices[name] = Choice(value, said, (row.source,), "high" if row.verified == "primary" else "medium")

    stated(
        "optimizer", _asked(row), "" if _asked(row) == row.optimizer else f"as {row.optimizer}, with decoupled decay"
    )
    if row.lr is not None and row.lr_is_peak:
        old_lr = choices["lr"]
        stated("lr", row.lr)
        low, high = min(row.lr, old_lr.low or row.lr), max(row.lr, old_lr.high or row.lr)
        choices["lr"] = replace(choices["lr"], low=low, high=high)
    elif row.lr is not None:
        old_lr = choices["lr"]
        said = (
            f"the source states {row.lr:g}, a base or a factor that its code multiplies; the peak rate is an estimate. "
        )
        choices["lr"] = replace(old_lr, reason=said + old_lr.reason, sure="low")
    for name in ("momentum", "nesterov", "eps"):
        if getattr(row, name) is not None and (name in choices or row.kind in ("sgd", "lars", "rmsprop")):
            stated(name, getattr(row, name))
    if row.rmsprop_alpha is not None:
        stated("alpha", row.rmsprop_alpha)
    if row.beta1 is not None or row.beta2 is not None:
        old: Any = choices["betas"].value if "betas" in choices else [0.9, 0.999]
        stated("betas", [old[0] if row.beta1 is None else row.beta1, old[1] if row.beta2 is None else row.beta2])
    found = row.decay()
    if found is not None:
        stated("weight_decay", found[1])
        stated("decay_form", found[0])
    elif choices["decay_form"].value not in (decays.form_of(_asked(row)), "none"):
        choices["decay_form"] = replace(choices["decay_form"], value="none")
    if row.no_decay is not None:
        roles = _roles(row)
        if roles is not None:
            stated("exempt", list(roles), row.no_decay)
    if row.schedule is not None:
        stated("schedule", schedule_kind(row.schedule), f"{row.schedule} {row.schedule_detail or ''}".strip())
    if row.lr_end is not None and row.lr:
        stated("lr_end", row.lr_end / row.lr)
    updates = base.situation.updates
    if row.warmup_steps is not None:
        stated("warmup", int(row.warmup_steps), "steps")
    elif row.warmup_frac is not None:
        stated("warmup", row.warmup_frac, "share of the run")
    elif row.warmup_epochs is not None and row.total_epochs:
        share = row.warmup_epochs / row.total_epochs
        stated("warmup", max(1, round(share * updates)) if updates else share, f"{row.warmup_epochs:g} epochs")
    if row.grad_clip is not None:
        stated("clip_norm", row.grad_clip or None, "" if row.grad_clip else "explicitly off")
    if row.ema_decay is not None and row.family != "ssl_vision":
        stated("ema", row.ema_decay)
    if row.layer_decay is not None:
        stated("layer_decay", row.layer_decay)
    if row.lr_groups is not None:
        stated("groups", row.lr_groups)
    notes = [f"published: {row.source} ({row.verified})"]
    notes += [f"the source's notes: {row.notes}"] if row.notes else []
    notes += [f"the source's result: {row.result}"] if row.result else []
    return replace(filled, choices=choices, published_optimizer=_asked(row), notes=(*notes, *base.notes), objections=())


def _asked(row: Published) -> str:
    """The optimizer of stepwell that does what the row's does: Adam with decoupled decay is AdamW."""
    return "AdamW" if row.optimizer == "Adam" and row.wd_type == "decoupled" else row.optimizer
