"""Weight decay: its form and its size, by the vote of configurations with the same kind of optimizer."""

from __future__ import annotations

from typing import cast

from stepwell.advisor.choice import Choice
from stepwell.advisor.choosing.ground import Ground, surety
from stepwell.advisor.published import kind_of


def choose(ground: Ground, optimizer: str) -> tuple[Choice, Choice]:
    """The size and the form ("decoupled", "l2" or "none") of the weight decay."""
    kind = kind_of(optimizer)
    votes = ground.votes(lambda row: row.decay(), lambda line: line.decay, kind)
    asked = {"Adam": ("l2", "none"), "AdamW": ("decoupled", "none")}.get(optimizer)
    if not votes:
        return (
            Choice(0.0, "no near configuration with this optimizer states a weight decay", (), "low"),
            Choice("none", "no weight decay", (), "low"),
        )
    best = votes[0]
    form, size = cast("tuple[str, float]", best.value)
    sure = surety(best.share, ground.nearest.distance)
    said = f"published with this kind of optimizer near this ({best.share:.0%} of the vote)"
    if asked and form not in asked:
        said += f"; published as {form}"
    change = "more or less data: less data and longer runs take more decay (2405.13698)"
    return (
        Choice(size, said, best.sources, sure, change),  # type: ignore[arg-type]
        Choice(form, _words(form), best.sources, sure, ""),  # type: ignore[arg-type]
    )


def form_of(optimizer: str) -> str:
    """The form of weight decay that the optimizer of this published name applies: "decoupled", "l2" or "none"."""
    from stepwell.advisor.choosing.optimizer import stepwell_name
    from stepwell.optimizers import find

    name = stepwell_name(optimizer)
    if optimizer in ("NAdamW", "Prodigy"):  # by an argument, which the recipe gives or which is the default
        return "decoupled"
    if name in ("LARS", "ASGD"):
        return "l2"
    if name in ("Rprop", "SparseAdam", "LBFGS"):
        return "none"
    return "l2" if find(name).decay == "coupled" else "decoupled"


def _words(form: str) -> str:
    return {
        "decoupled": "the weights shrink by lr * weight_decay, apart from the gradient",
        "l2": "added to the gradient, before everything else that the optimizer does",
        "none": "no weight decay",
    }[form]
