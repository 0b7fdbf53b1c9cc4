"""What a module shows: the kind of network, its size, norm layers, frozen, pretrained and tied parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from stepwell.advisor.looking.counted import count
from stepwell.advisor.looking.kinds import kind
from stepwell.advisor.looking.trained import trained
from stepwell.advisor.situation import Situation
from stepwell.errors import UsageError


def looked(model: Any, one: Situation) -> tuple[dict[str, Any], list[str]]:
    """Fields of the situation that the module shows, and notes.

    `model` is a module, or several, as generator and discriminator. Nothing in the module is changed, and it is not
    run.
    """
    module = _whole(model)
    facts = count(module)
    if not facts.elements:
        raise UsageError("advise: the model has no parameters; give the module that is trained")
    found, traits, notes = kind(facts, one)
    notes = list(notes)
    fields: dict[str, Any] = {**found, "params": float(facts.elements)}
    if facts.uninitialized:
        notes.append("some parameters have no size yet (lazy layers): run one batch first, for the right size")
    if facts.frozen:
        traits.append("frozen part")
    if facts.tied:
        traits.append("tied weights")
    hint = trained(module)
    if hint:
        traits.append("pretrained")
    regime, said = _regime(facts, bool(hint), found.get("architecture", ""))
    if regime:
        fields["regime"] = regime
    if said and not one.regime:
        notes.append(said + (f" ({hint})" if hint and "look trained" in said else ""))
    return {**fields, "traits": traits}, notes


def _whole(model: Any) -> nn.Module:
    if isinstance(model, nn.Module):
        return model
    if isinstance(model, Sequence) and model and all(isinstance(part, nn.Module) for part in model):
        return nn.ModuleList(model)
    raise UsageError(
        "advise: the model is neither a torch.nn.Module nor a list of them; give the module that is trained"
    )


def _regime(facts: Any, is_trained: bool, architecture: str) -> tuple[str, str]:
    if architecture == "lora":
        return "fine_tune", ""
    if facts.frozen and facts.trained_layers == 1:
        # published rates of probes on self-supervised features (SGD 30, LARS 6) would ruin an ordinary head
        return (
            "fine_tune",
            'only one layer is trained: taken for fine-tuning; give regime="linear_probe" for a probe of '
            "self-supervised features, whose published rates are far higher",
        )
    if facts.frozen:
        return "fine_tune", "a part of the model is frozen: taken for fine-tuning; give regime= if it is not"
    if is_trained:
        return (
            "fine_tune",
            "the weights look trained: taken for fine-tuning; this is a hint only, give regime= to be sure",
        )
    return "", ""
