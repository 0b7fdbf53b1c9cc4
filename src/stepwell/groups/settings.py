"""From roles, patterns and layer-wise decay to the hyperparameters of each tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stepwell.anatomy import Anatomy, Member
from stepwell.arguments import mapping, number, text
from stepwell.errors import UsageError, shown
from stepwell.groups.patterns import Pattern, check, matches, text_of

# Roles that weight decay leaves alone unless told otherwise. There is no single convention: nanoGPT decays embeddings,
# OLMo exempts only them, vision transformers exempt tables of positions. Shrinking what norms, biases and scales say
# has no use, and decay pulls rare rows of an embedding to zero between the few gradients that they get. A tied head
# gets a gradient in every row at every step, so it is decayed.
SHOWN = 4  # names that a note lists before it says how many more there are


@dataclass(frozen=True)
class Label:
    """The key, besides hyperparameters, by which tensors are grouped."""

    optimizer: str | None = None
    prefix: str = ""


class Settings:
    """The hyperparameters of each tensor, from the user's arguments."""

    def __init__(
        self,
        anatomy: Anatomy,
        lr: float | None,
        weight_decay: float | None,
        no_decay: Sequence[str],
        roles: Mapping[str, Mapping[str, Any]],
        patterns: dict[Pattern, Mapping[str, Any] | float],
        layer_decay: float | None,
        owner: str,
    ) -> None:
        lr, weight_decay = checked_number(owner, "lr", lr), checked_number(owner, "weight_decay", weight_decay)
        if layer_decay is not None:
            layer_decay = number(owner, "decay" if owner == "by_layer" else "layer_decay", layer_decay, above=0, most=1)
            if lr is None:
                raise UsageError(f"{owner}: layer_decay multiplies lr, and lr is not given; pass lr=...")
        check(patterns, anatomy.members, owner)
        for pattern, value in patterns.items():
            if not isinstance(value, Mapping):
                patterns[pattern] = number(owner, f"the multiple of '{text_of(pattern)}' in patterns", value, least=0)
                if lr is None:
                    raise UsageError(
                        f"{owner}: '{text_of(pattern)}': {shown(value)} multiplies lr, and lr is not given; pass lr=..."
                    )
        roles = {role: mapping(owner, f"roles[{role!r}]", given, "a dict") for role, given in roles.items()}
        for pattern, given in patterns.items():
            if isinstance(given, Mapping):
                patterns[pattern] = mapping(owner, f"patterns[{text_of(pattern)!r}]", given, "a dict")
        for where, given in [*roles.items(), *patterns.items()]:
            if isinstance(given, dict):
                check_keys(f"{owner}: {shown(text_of(where))}", given)
                for key in ("params", "param_names", "name"):
                    if key in given:
                        raise UsageError(
                            f"{owner}: {text_of(where)!r} sets {key!r}, which groups set themselves; remove it"
                        )
                for key in ("lr", "weight_decay"):
                    if key in given:
                        given[key] = checked_number(owner, f"{key} of '{text_of(where)}'", given[key])
        self.anatomy, self.lr, self.weight_decay = anatomy, lr, weight_decay
        self.no_decay, self.roles, self.patterns, self.layer_decay = no_decay, roles, patterns, layer_decay

    def __call__(self, member: Member) -> tuple[Label, dict[str, Any]]:
        values: dict[str, Any] = {}
        if self.lr is not None:
            values["lr"] = self.lr
        if member.role in self.no_decay or (member.exempt and self.no_decay):
            values["weight_decay"] = 0.0
        elif self.weight_decay is not None:
            values["weight_decay"] = self.weight_decay
        values.update(self.roles.get(member.role, {}))
        prefix = []
        if self.layer_decay is not None:
            prefix.append(f"layer {member.depth}")
        for pattern, given in self.patterns.items():
            if matches(pattern, member):
                values.update({"lr": values["lr"] * given} if not isinstance(given, Mapping) else given)
                prefix.append(text_of(pattern))
                break
        if self.layer_decay is not None and "lr" in values:
            values["lr"] = values["lr"] * self.layer_decay ** (self.anatomy.blocks + 1 - member.depth)
        return Label(None, ", ".join(prefix)), values

    def notes(self, trained: Sequence[Member]) -> list[str]:
        """How depth was counted, and unexpected effects of the patterns."""
        said = [self.anatomy.how] if self.layer_decay is not None else []
        taken: dict[int, str] = {}
        for pattern in self.patterns:
            text = text_of(pattern)
            wanted = [m for m in self.anatomy.members if matches(pattern, m)]
            live = [m for m in wanted if any(m is t for t in trained)]
            doubled = [m for m in live if id(m.tensor) in taken]
            if not live:
                said.append(f"'{text}' matches only frozen parameters, so the pattern has no group")
            elif len(doubled) == len(live):
                earlier = sorted({taken[id(m.tensor)] for m in doubled})
                said.append(
                    f"'{text}' has no group: all its parameters are matched by {listed(earlier)}, which comes first"
                )
            elif doubled:
                said.append(
                    f"'{text}' also matches parameters of an earlier pattern: {listed([m.name for m in doubled])}"
                )
            for member in live:
                taken.setdefault(id(member.tensor), text)
        unmatched = [m for m in trained if id(m.tensor) not in taken]
        if self.patterns and unmatched:
            said.append(f"no pattern matches {counted(unmatched)}: {listed([m.name for m in unmatched])}")
        return said


def check_keys(where: str, given: Mapping[Any, Any]) -> None:
    """Raise UsageError for a hyperparameter whose name is not a str."""
    for key in given:
        text(where, "a hyperparameter's name", key)


def checked_number(owner: str, name: str, value: Any) -> Any:
    """A number of at least 0. None, and a tensor of one number (torch allows one for lr), are returned unchanged."""
    if value is None:
        return None
    plain = number(owner, name, value, least=0)
    return value if hasattr(value, "fill_") else plain


def counted(members: Sequence[Member]) -> str:
    elements = sum(m.tensor.numel() for m in members)
    return f"{len(members)} tensor{'' if len(members) == 1 else 's'} of {elements:,} elements"


def listed(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f", and {more} more" if more > 0 else "")
