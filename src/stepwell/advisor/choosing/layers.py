"""What differs between tensors: which have no weight decay, and the decay of the rate from layer to layer."""

from __future__ import annotations

from stepwell.advisor.choice import Choice
from stepwell.advisor.choosing.ground import Ground
from stepwell.advisor.published import Published

_DISAGREE = "there is no single convention, and the effect is small next to that of the rate"


def choose(ground: Ground, weight_decay: float, optimizer: str) -> dict[str, Choice]:
    """exempt (roles without decay), layer_decay (factor per layer) and groups (in words)."""
    return {
        "exempt": _exempt(ground, weight_decay),
        "layer_decay": _layer_decay(ground),
        "groups": _groups(ground, optimizer),
    }


def _exempt(ground: Ground, weight_decay: float) -> Choice:
    if not weight_decay:
        return Choice([], "there is no weight decay", (), "high")
    votes = ground.votes(_roles, lambda line: line.no_decay)
    transformer = ground.situation.architecture in ("vit", "causal_lm", "masked_lm", "seq2seq", "lm", "contrastive")
    stated = sum(w for n, w in zip(ground.neighbors, ground.weights, strict=True) if _roles(n.row) is not None)
    stated += ground.weight if ground.line is not None and ground.line.no_decay is not None else 0.0
    if votes and votes[0].share > 0.4 and stated > 0.25 * (sum(ground.weights) + ground.weight):
        roles = sorted(votes[0].value)  # type: ignore[call-overload]
        return Choice(list(roles), f"published near this; {_DISAGREE}", votes[0].sources, "medium")
    if transformer:
        return Choice(
            ["bias", "norm", "scalar"], f"usual for transformers; {_DISAGREE}", ("nanoGPT: dim < 2",), "medium"
        )
    return Choice([], f"near configurations decay every tensor; {_DISAGREE}", (), "low")


def _roles(row: Published) -> tuple[str, ...] | None:
    """The roles that a configuration exempts."""
    said = (row.no_decay or "").lower()
    if not said or "group" in said or "conv" in said:
        return None
    if "embeddings only" in said:
        return ("embedding",)
    roles = {"norm"} if "norm" in said or "bn" in said else set()
    roles |= {"bias"} if "bias" in said else set()
    roles |= {"position"} if "pos" in said or "cls" in said else set()
    if "1-d" in said or "dim<2" in said or "flat" in said:
        roles |= {"norm", "bias", "scalar"}
    return tuple(sorted(roles)) or None


def _layer_decay(ground: Ground) -> Choice:
    votes = ground.votes(lambda row: row.layer_decay, lambda line: line.layer_decay)
    stated = sum(w for n, w in zip(ground.neighbors, ground.weights, strict=True) if n.row.layer_decay is not None)
    line = ground.line
    stated += ground.weight if line is not None and line.layer_decay is not None else 0.0
    if votes and stated > 0.5 * (sum(ground.weights) + ground.weight) and ground.situation.regime == "fine_tune":
        value = float(votes[0].value)  # type: ignore[arg-type]
        said = "published near this; 0.65 for base, 0.75 for large models, 0.9 for Swin"
        return Choice(
            round(value, 4), said, votes[0].sources, "medium", "without it, use at most a quarter of the rate"
        )
    return Choice(None, "one rate for all layers", (), "medium")


def _groups(ground: Ground, optimizer: str) -> Choice:
    one = ground.situation
    for neighbor in ground.neighbors[:3]:
        if neighbor.row.lr_groups and neighbor.row.family == one.family and neighbor.distance < 2.5:
            return Choice(neighbor.row.lr_groups, "published near this", (neighbor.row.id,), "low")
    if optimizer.startswith("Muon") or optimizer == "Dion":
        said = "hidden matrices to Muon; embeddings, head, norms and biases to AdamW"
        return Choice(
            said, "two dimensions are not enough to tell: head and embeddings look the same", ("Muon README",), "high"
        )
    if "pretrained" in one.traits and one.family in ("cnn_classification", "vit_supervised", "detection_segmentation"):
        return Choice("a new head may have 10 times the rate", "common for pretrained backbones", ("FCN, DETR",), "low")
    return Choice(None, "one group for all tensors but the exempt ones", (), "medium")
