"""Declarations of models: groups of layers (timm), classes of blocks (transformers), and parameters exempt from weight
decay."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from stepwell.errors import UsageError

_WITH_THE_ONE_BEFORE = 99999  # timm's mark: what matches belongs to the group before it


@dataclass(frozen=True)
class Group:
    """A group of a model's `group_matcher`: a block, or one module before or after the blocks."""

    path: str
    is_block: bool
    parameters: tuple[tuple[str, nn.Parameter], ...]


def _own(module: nn.Module, name: str) -> Any:
    """An attribute of the module or its class, but not one that a wrapper forwards from the wrapped module."""
    if name in module.__dict__ or hasattr(type(module), name):
        return getattr(module, name)
    return None


# Layers


def groups(module: nn.Module, path: str) -> list[Group] | None:
    """The groups of a timm model's `group_matcher`, in order; None without a `group_matcher` or without repeated
    groups.

    Raises UsageError if `group_matcher` fails.
    """
    matcher = _own(module, "group_matcher")
    if not callable(matcher):
        return None
    try:
        try:
            spec = matcher(coarse=False)
        except TypeError:
            spec = matcher()
        rules = _rules(spec)
        keyed: dict[tuple[float, ...], list[tuple[str, nn.Parameter]]] = {}
        for name, parameter in module.named_parameters():
            keyed.setdefault(_key(rules, name), []).append((name, parameter))
        stem = {i for i, key in enumerate(spec) if key == "stem"} if isinstance(spec, Mapping) else {0}
    except Exception as error:  # a method of the user's own may raise anything
        raise UsageError(
            f"{type(module).__name__}.group_matcher() failed ({type(error).__name__}: {error}); it must return regular "
            "expressions, as {'stem': '^patch_embed', 'blocks': r'^blocks\\.(\\d+)'}"
        ) from error
    rows: list[tuple[bool, list[tuple[str, nn.Parameter]]]] = []
    for key in sorted(keyed):
        if rows and key[-1] == _WITH_THE_ONE_BEFORE:
            rows[-1][1].extend(keyed[key])
        else:
            rows.append((key[0] not in stem and key[0] != float("inf"), list(keyed[key])))
    if not any(is_block for is_block, _ in rows):
        return None
    found = []
    for is_block, members in rows:
        owners = [(f"{path}.{local}".strip("."), p) for n, p in members for local in [n.rpartition(".")[0]]]
        if is_block:
            found.append(Group(_common([owner for owner, _ in owners]), True, tuple(owners)))
        else:
            found += [
                Group(path, False, tuple(pair for pair in owners if pair[0] == path))
                for path in dict.fromkeys(owner for owner, _ in owners)
            ]
    return found


def _rules(spec: Any) -> Any:
    """A matcher as (expression, place in the order, suffix) triples, or the function that it is."""
    if not isinstance(spec, Mapping):
        return spec
    rules = []
    for place, given in enumerate(spec.values()):
        if given is None:
            continue
        for expression, suffix in given if isinstance(given, (list, tuple)) else [(given, None)]:
            rules.append((re.compile(expression), (place,), suffix))
    return rules


def _key(rules: Any, name: str) -> tuple[float, ...]:
    """Where a parameter belongs in the order of groups; what no rule matches comes last."""
    if callable(rules):
        value = rules(name)
        return tuple(float(v) for v in value) if isinstance(value, Iterable) else (float(value),)
    for expression, prefix, suffix in rules:
        match = expression.match(name)
        if match:
            parts = [*prefix, *(value for value in match.groups() if value is not None), *(suffix or ())]
            return tuple(float(part) for part in parts)
    return (float("inf"),)


def _common(paths: list[str]) -> str:
    """The longest common path prefix."""
    parts = [path.split(".") for path in paths]
    shared = []
    for same in zip(*parts, strict=False):
        if len(set(same)) > 1:
            break
        shared.append(same[0])
    return ".".join(shared)


def block_classes(model: nn.Module) -> set[str]:
    """The names of module classes that the model, or a part of it, declares indivisible (transformers)."""
    names: set[str] = set()
    for module in model.modules():
        said = _own(module, "_no_split_modules")
        if isinstance(said, Collection) and not isinstance(said, str):
            names |= {name for name in said if isinstance(name, str)}
        if any(base.__name__ == "GradientCheckpointingLayer" for base in type(module).__mro__):
            names.add(type(module).__name__)
    return names


# Weight decay


def exempt(model: nn.Module) -> set[int]:
    """The ids of parameters that the model, or a part of it, exempts from weight decay: by `no_weight_decay` (names),
    `no_weight_decay_keywords` (parts of names), or the attribute `_no_weight_decay` on the parameter (Mamba).

    Raises UsageError if the declaration is not a collection of names.
    """
    found = {id(p) for p in model.parameters() if getattr(p, "_no_weight_decay", False)}
    for module in model.modules():
        names, pieces = _names(module, "no_weight_decay"), _names(module, "no_weight_decay_keywords")
        if names or pieces:
            for name, parameter in module.named_parameters(remove_duplicate=False):
                if name in names or any(piece in name for piece in pieces):
                    found.add(id(parameter))
    return found


def _names(module: nn.Module, attribute: str) -> set[str]:
    said = _own(module, attribute)
    if callable(said):
        try:
            said = said()
        except Exception as error:  # a method of the user's own may raise anything
            raise UsageError(
                f"{type(module).__name__}.{attribute}() failed ({type(error).__name__}: {error}); it must return names"
            ) from error
        if isinstance(said, str) or not isinstance(said, Collection) or not all(isinstance(n, str) for n in said):
            raise UsageError(f"{type(module).__name__}.{attribute}() returned {said!r}; it must be a set of names")
    if isinstance(said, str) or not isinstance(said, Collection):
        return set()  # an attribute of the user's own that is called so
    return {name for name in said if isinstance(name, str)}
