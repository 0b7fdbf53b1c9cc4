"""`stepwell.advise`: from what is known about a training to a recipe; and recipes by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stepwell.advisor.as_published import as_published
from stepwell.advisor.asked import Asked
from stepwell.advisor.choosing.optimizer import named
from stepwell.advisor.classics import CLASSICS
from stepwell.advisor.given import OWNER, situation
from stepwell.advisor.making import made
from stepwell.advisor.published import find
from stepwell.advisor.recipe import Recipe
from stepwell.advisor.situation import of_published
from stepwell.arguments import flag, number, refusal, sequence, text, whole


def advise(
    model: Any = None,
    *,
    family: str | None = None,
    task: str | None = None,
    dataset: str | None = None,
    regime: str | None = None,
    params: float | None = None,
    batch_size: float | None = None,
    batch_unit: str | None = None,
    seq_len: int | None = None,
    steps: float | None = None,
    epochs: float | None = None,
    tokens: float | None = None,
    total_steps: float | None = None,
    total_epochs: float | None = None,
    total_tokens: float | None = None,
    optimizer: str | None = None,
    lr: float | None = None,
    weight_decay: float | None = None,
    nesterov: bool | None = None,
    betas: Sequence[float] | None = None,
    eps: float | None = None,
    clip_norm: float | None = None,
    devices: int | None = None,
    micro_batch: int | None = None,
    memory: float | None = None,
    priority: str | None = None,
    tuning: str | None = None,
    saying: str = "",
) -> Recipe:
    """A recipe for a training: optimizer, settings and schedule, each with reason, source, range and doubt.

    The values come from published configurations near this training, blended with the consensus of its family, and are
    scaled by published rules. Nothing is asked; what is assumed is said (`recipe.notes`, `recipe.explain()`).

    Args:
        model: the module, the name of a model ("ViT-B/16"), or None. A module is looked at: kind of network, size,
            norm layers, frozen and pretrained parts. A row of the published configurations, as a dict, is read as well.
        family, task, regime: words of the published configurations, or free text that means them ("fine-tuning").
        dataset: the name of the data, as "ImageNet-1k".
        params: the number of parameters.
        batch_size, batch_unit, seq_len: of one update, over all devices, in "samples" or "tokens".
        steps, epochs, tokens: the length of the run; also by the names total_steps, total_epochs, total_tokens.
        optimizer, lr, weight_decay, nesterov, betas, eps, clip_norm: fixed by the user. The advice keeps them, says
            what they cost (`recipe.objections`), and fills in the best values around them.
        devices, micro_batch: number of devices, and the largest batch that one device can hold, for accumulation.
        memory: GiB per device.
        priority: "fast" (a fast start), "best" (the best end) or "balanced".
        tuning: time for a search of hyperparameters: "none", "little" or "much".
        saying: a remark in free text, as "urgent" or "the paper used it", which is answered.

    >>> recipe = stepwell.advise("ResNet-50", dataset="ImageNet-1k", batch_size=256, epochs=100)
    >>> recipe.optimizer, recipe.lr, recipe.schedule
    ('SGD', 0.1, 'stairs')

    Raises UsageError for an argument that is out of range, and for a word that means nothing here.
    """
    given = {
        "family": family, "task": task, "dataset": dataset, "regime": regime, "params": params,
        "batch_size": batch_size, "batch_unit": batch_unit, "seq_len": seq_len, "steps": steps, "epochs": epochs,
        "tokens": tokens, "total_steps": total_steps, "total_epochs": total_epochs, "total_tokens": total_tokens,
        "devices": devices, "memory": memory, "priority": priority, "tuning": tuning,
    }  # fmt: skip
    asked = _asked(
        optimizer=optimizer, lr=lr, weight_decay=weight_decay, nesterov=nesterov, betas=betas, eps=eps,
        clip_norm=clip_norm, micro_batch=micro_batch, saying=saying,
    )  # fmt: skip
    one, notes = situation(model, given)
    return made(Recipe, one, asked, tuple(notes))


def _asked(**given: Any) -> Asked:
    """What the user fixes, checked."""
    found: dict[str, Any] = {}
    if given["optimizer"] is not None:
        found["optimizer"] = named(text(OWNER, "optimizer", given["optimizer"], "the name of an optimizer, as 'adamw'"))
    for name in ("lr", "weight_decay", "eps", "clip_norm"):
        if given[name] is not None:
            found[name] = float(number(OWNER, name, given[name], least=0))
    if given["nesterov"] is not None:
        found["nesterov"] = flag(OWNER, "nesterov", given["nesterov"])
    if given["betas"] is not None:
        must = "numbers in [0, 1), as (0.9, 0.999)"
        pair = sequence(OWNER, "betas", given["betas"], must)
        found["betas"] = tuple(float(number(OWNER, "betas", beta, least=0, below=1)) for beta in pair)
    if given["micro_batch"] is not None:
        found["micro_batch"] = whole(OWNER, "micro_batch", given["micro_batch"], least=1)
    saying = given["saying"]
    if not isinstance(saying, str):
        raise refusal(OWNER, "saying", saying, "a remark in words, or ''")
    return Asked(**found, saying=saying)


def recipe(name: str) -> Recipe:
    """A published configuration as a recipe: `stepwell.recipe("vit-b-16-imagenet-1k")`.

    What the source states is taken as it is; what it does not state is filled in as `advise` does, and says so. A name
    that is not an id is searched (`stepwell recipes` lists all).

    Raises UsageError for a name without a match.
    """
    row = find(CLASSICS.get(name, name) if isinstance(name, str) else name)
    base = made(Recipe, of_published(row), name=row.id)
    return as_published(base, row)
