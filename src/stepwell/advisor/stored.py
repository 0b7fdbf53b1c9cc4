"""A recipe as plain values, as TOML, and back."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from importlib import import_module
from typing import TYPE_CHECKING, Any

from stepwell.advisor.asked import Asked
from stepwell.advisor.choice import Choice
from stepwell.advisor.objections.objection import Objection
from stepwell.advisor.situation import Situation
from stepwell.errors import UsageError, shown

if TYPE_CHECKING:
    from stepwell.advisor.recipe import Recipe

FORMAT = 1
_OWNER = "Recipe.from_toml"


def record(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain values: what JSON and TOML hold."""
    one = {
        field.name: getattr(recipe.situation, field.name)
        for field in fields(Situation)
        if field.name not in ("origin", "traits") and getattr(recipe.situation, field.name) not in (None, "")
    }
    return {
        "format": FORMAT,
        "name": recipe.name,
        "optimizer": recipe.optimizer,
        "published_optimizer": recipe.published_optimizer,
        "notes": list(recipe.notes),
        "asked": {name: value for name, value in asdict(recipe.asked).items() if value not in (None, "")},
        "situation": {**one, "traits": sorted(recipe.situation.traits), "origin": dict(recipe.situation.origin)},
        "near": [{"id": name, "distance": distance, "words": words} for name, distance, words in recipe.near],
        "objections": [objection.record() for objection in recipe.objections],
        "choices": {name: choice.record() for name, choice in recipe.choices.items()},
    }


def to_toml(recipe: Recipe) -> str:
    """The recipe as TOML. TOML has no null: a value that is not set is left out."""
    whole = record(recipe)
    tables, lists = ("asked", "situation"), ("near", "objections")
    lines = [f"{key} = {_value(value)}" for key, value in whole.items() if key not in (*tables, *lists, "choices")]
    for name in tables:
        lines += ["", f"[{name}]", *_items(whole[name])]
    for name in lists:
        for item in whole[name]:
            lines += ["", f"[[{name}]]", *_items(item)]
    for name, choice in whole["choices"].items():
        lines += ["", f"[choices.{name}]", *_items(choice)]
    return "\n".join(lines) + "\n"


def _items(table: Mapping[str, Any]) -> list[str]:
    return [f"{key} = {_value(value)}" for key, value in table.items() if value is not None]


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_value(item)}" for key, item in value.items()) + " }"
    return str(value) if isinstance(value, int) else json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def from_toml(cls: type[Recipe], text: str) -> Recipe:
    """The recipe, an instance of `cls`, that `to_toml` wrote. Raises UsageError for text of another form."""
    if not isinstance(text, str):
        raise UsageError(f"{_OWNER}: text={shown(text)}; it must be the text that Recipe.to_toml wrote")
    read = _read(text)
    if read.get("format") != FORMAT:
        raise UsageError(f"{_OWNER}: format={shown(read.get('format'))}; this version reads format {FORMAT}")
    try:
        situation = dict(read["situation"])
        origin, traits = situation.pop("origin"), situation.pop("traits")
        asked: dict[str, Any] = {
            name: tuple(value) if name == "betas" else value for name, value in read["asked"].items()
        }
        return cls(
            read["name"],
            Situation(**situation, origin=origin, traits=frozenset(traits)),
            {name: Choice.of({"value": None, **choice}) for name, choice in read["choices"].items()},
            read["published_optimizer"],
            tuple((item["id"], item["distance"], item["words"]) for item in read.get("near", ())),
            tuple(Objection(**item) for item in read.get("objections", ())),
            tuple(read["notes"]),
            Asked(**asked),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{_OWNER}: the text is not a whole recipe: {error}; write it with Recipe.to_toml") from None


def _read(text: str) -> dict[str, Any]:
    for name in ("tomllib", "tomli"):
        try:
            module = import_module(name)
        except ImportError:
            continue
        try:
            return module.loads(text)
        except module.TOMLDecodeError as error:
            raise UsageError(f"{_OWNER}: the text is no TOML: {error}") from None
    raise UsageError(f"{_OWNER}: reading TOML needs Python 3.11 or the package 'tomli'; pip install tomli")
