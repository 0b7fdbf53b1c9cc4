"""`stepwell advise` and `stepwell recipes`."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from stepwell.errors import UsageError
from stepwell.terminal import is_plain


def advise(
    model: Annotated[
        str | None, typer.Argument(help="A model's name, as ViT-B/16; or my_model.py:name of a module.")
    ] = None,
    family: Annotated[str | None, typer.Option(help="Kind of training, as gan or fine_tuning.")] = None,
    task: Annotated[str | None, typer.Option(help="What is learned, as image_classification.")] = None,
    dataset: Annotated[str | None, typer.Option(help="The data, as ImageNet-1k.")] = None,
    regime: Annotated[
        str | None, typer.Option(help="From scratch or not: from_scratch, fine_tune, linear_probe, rl.")
    ] = None,
    params: Annotated[float | None, typer.Option(help="Number of parameters.")] = None,
    batch_size: Annotated[float | None, typer.Option(help="Of one update, over all devices.")] = None,
    batch_unit: Annotated[str | None, typer.Option(help="Unit of the batch size: samples or tokens.")] = None,
    seq_len: Annotated[int | None, typer.Option(help="Tokens of one sequence.")] = None,
    steps: Annotated[float | None, typer.Option(help="Updates of the run.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Epochs of the run.")] = None,
    tokens: Annotated[float | None, typer.Option(help="Tokens of the run.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="An optimizer that must be used.")] = None,
    lr: Annotated[float | None, typer.Option(help="A learning rate that must be used.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="A weight decay that must be used; 0 for none.")] = None,
    devices: Annotated[int | None, typer.Option(help="Number of devices.")] = None,
    micro_batch: Annotated[int | None, typer.Option(help="Largest batch that one device can hold.")] = None,
    memory: Annotated[float | None, typer.Option(help="GiB per device.")] = None,
    priority: Annotated[
        str | None, typer.Option(help="What matters more: fast (a fast start), best (the best end) or balanced.")
    ] = None,
    tuning: Annotated[str | None, typer.Option(help="Time to tune: none, little or much.")] = None,
    saying: Annotated[str, typer.Option(help='A remark, as "urgent" or "the paper used it".')] = "",
    explain: Annotated[bool, typer.Option("--explain", help="Reasons, sources and both sides.")] = False,
    code: Annotated[str | None, typer.Option(help="Print a training loop: stepwell or torch.")] = None,
    toml: Annotated[bool, typer.Option("--toml", help="Print the recipe as TOML.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the recipe as JSON.")] = False,
    tree: Annotated[bool, typer.Option("--tree", help="Print the decision tree instead.")] = False,
    page: Annotated[str | None, typer.Option(help="Write a page with the recipe and the tree drawn: .html.")] = None,
) -> None:
    """Advise a recipe: optimizer, settings and schedule, with reasons, sources, ranges and doubt.

    In a terminal, what is not given is asked. Without one nothing is asked: what was assumed is said.
    """
    if tree:
        from stepwell.advisor.tree import GUIDE, SEEDS, drawn

        print(f"The decision tree\n\n{drawn(SEEDS, is_plain())}\n\nThe selection guide\n\n{drawn(GUIDE, is_plain())}")
        return
    if sum((explain, code is not None, toml, as_json)) > 1:
        raise UsageError("advise: --explain, --code, --toml and --json exclude one another; give one")
    given: dict[str, Any] = {
        "model": model, "family": family, "task": task, "dataset": dataset, "regime": regime, "params": params,
        "batch_size": batch_size, "batch_unit": batch_unit, "seq_len": seq_len, "steps": steps, "epochs": epochs,
        "tokens": tokens, "optimizer": optimizer, "lr": lr, "weight_decay": weight_decay, "devices": devices,
        "micro_batch": micro_batch, "memory": memory, "priority": priority, "tuning": tuning,
    }  # fmt: skip
    quiet = code is not None or toml or as_json
    if not quiet and sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty():
        from stepwell.advisor.questions import ask

        given = ask(given, input, print)
    if not any(given[name] for name in ("model", "family", "task", "dataset")):
        raise UsageError("advise: nothing is known about the model; give its name, --family, --task or --dataset")
    print(_said(_advised(given, saying), explain, code, toml, as_json, page), end="")


def _advised(given: dict[str, Any], saying: str) -> Any:
    from stepwell.advisor.advice import advise as advised

    model = given.pop("model")
    if model is not None and (".py" in model or (":" in model and " " not in model)):
        from stepwell.tasks.load import model as loaded

        model = loaded(model)
    return advised(model, **given, saying=saying)


def _said(recipe: Any, explain: bool, code: str | None, toml: bool, as_json: bool, page: str | None) -> str:
    said = ""
    if page is not None:
        from stepwell.advisor.page import write

        said = f"wrote {write(page, recipe)}\n"
    if explain:
        return recipe.explain() + said
    if code is not None:
        return recipe.code(code)
    if toml:
        return recipe.to_toml()
    if as_json:
        return recipe.to_json() + "\n"
    lines = [str(recipe), ""]
    lines += [f"note: {note}" for note in recipe.notes]
    lines += [f"{objection.severity}: {objection}" for objection in recipe.objections]
    lines += ["--explain gives reasons, sources and both sides; --code prints a training loop"]
    return "\n".join(lines) + "\n" + said


def recipes(
    query: Annotated[list[str] | None, typer.Argument(help="Words, as vit imagenet; or the id of a recipe.")] = None,
    show: Annotated[bool, typer.Option("--show", help="Show the best match with all values.")] = False,
    code: Annotated[
        str | None, typer.Option(help="Print a training loop of the best match: stepwell or torch.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print docs/recipes.md.")] = False,
) -> None:
    """List the published configurations that match the words, or show one.

    --json prints all that is known of each, with its source.
    """
    from stepwell.advisor.catalog import facts, found, page, table

    if markdown:
        print(page(), end="")
        return
    words = " ".join(query or [])
    rows = found(words)
    if show or code is not None:
        if not words:
            raise UsageError("recipes: --show and --code need a recipe; give its name, as vit-b16-imagenet")
        from stepwell.advisor.advice import recipe

        chosen = recipe(words.replace(" ", "-") if words.replace(" ", "-") == rows[0].id else rows[0].id)
        print(chosen.code(code) if code is not None else chosen.explain(), end="")
        return
    print(json.dumps(facts(rows), indent=1) if as_json else table(rows))
