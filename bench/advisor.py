"""How often the advisor is right, on published configurations that it must not look at.

    python bench/advisor.py [--rows] [--json FILE]

For each configuration the advisor gets what its row says about the training (model, family, task, data, regime, size,
batch, length) and none of its answers. Left out of the published configurations are, in turn:

- `member`: the configuration itself
- `copies`: also every configuration of the same model, or of the same source line with the same learning rate
- `paper`: also every configuration from the same paper or the same folder of a repository, and every one whose model
  has the same words in its name
- `paper, strict`: as `paper`, and a consensus counts only where a configuration that is left supports it

Two baselines stand below: always AdamW at 1e-3 (torch's defaults), and the decision tree of the seeds.

Right is: the optimizer of the same family (Adam and AdamW are one, their decay is counted apart); the learning rate
within a factor; the weight decay of the same form, and within half a power of ten (or both zero); the same kind of
schedule (step and multistep are one). A value that the source does not state is not counted.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from stepwell.advisor.distance import likeness
from stepwell.advisor.making import made
from stepwell.advisor.names import read_model
from stepwell.advisor.published import Published, kind_of, published, schedule_kind
from stepwell.advisor.recipe import Recipe
from stepwell.advisor.situation import Situation, completed, of_published
from stepwell.advisor.tree import SEEDS, walk

GOALS = {"optimizer": 0.75, "lr x3": 0.70, "lr x10": 0.92, "decay": 0.65, "schedule": 0.65, "in range": 0.80}
FIRST = 199  # configurations of recipes.json; the others were collected after the rules stood
FIGURES = (*GOALS, "exact name", "decay form")


@dataclass(frozen=True)
class Answer:
    """What a method says: the published name of the optimizer, lr with its range, decay (form, size), schedule."""

    optimizer: str
    lr: float | None
    decay: tuple[str, float] | None
    schedule: str | None
    low: float = math.nan
    high: float = math.nan


def member(row: Published, rows: tuple[Published, ...]) -> tuple[Published, ...]:
    return tuple(other for other in rows if other.id != row.id)


def copies(row: Published, rows: tuple[Published, ...]) -> tuple[Published, ...]:
    return tuple(other for other in member(row, rows) if not is_copy(row, other))


def is_copy(row: Published, other: Published) -> bool:
    """Whether two configurations are one recipe: the same model, or the same source line with the same rate."""
    return row.model == other.model or (row.source == other.source and row.lr == other.lr and row.lr is not None)


def paper(row: Published, rows: tuple[Published, ...]) -> tuple[Published, ...]:
    return tuple(
        other for other in copies(row, rows) if origin(row) != origin(other) and likeness(row.model, other.model) < 1
    )


def origin(row: Published) -> str:
    """Where a configuration comes from: the folder of a file in a repository, else the whole source."""
    source = row.source.split(" (")[0].split(" + ")[0]
    return source.rpartition("/")[0] if ":" in source and "/" in source.partition(":")[2] else source


LEAVE: dict[str, Callable[[Published, tuple[Published, ...]], tuple[Published, ...]]] = {
    "member": member,
    "copies": copies,
    "paper": paper,
    "paper, strict": paper,
}


def of_first(rows: tuple[Published, ...]) -> tuple[Published, ...]:
    """Those of recipes.json, on which the rules were written."""
    first = {row.id for row in published()[:FIRST]}
    return tuple(row for row in rows if row.id in first)


def advised(one: Situation, rows: tuple[Published, ...], strict: bool) -> Answer:
    recipe = made(Recipe, one, rows=rows, strict=strict)
    low, high = recipe.lr_range
    return Answer(
        recipe.published_optimizer, recipe.lr, (recipe.decay_form, recipe.weight_decay), recipe.schedule, low, high
    )


def without_optimizer(one: Situation) -> Situation:
    """The situation with the name of an optimizer struck out of the name of the model."""
    said = read_model(one.model).optimizer
    if not said:
        return one
    words = [word for word in one.model.split() if said not in word.lower()]
    return completed(replace(one, model=" ".join(words) or "a model", named_optimizer=""))


def always_adamw(one: Situation) -> Answer:
    return Answer("AdamW", 1e-3, ("decoupled", 0.01), "constant")


def seeds(one: Situation) -> Answer:
    leaf = walk(SEEDS, one)
    return Answer(leaf.optimizer, leaf.lr, leaf.decay, leaf.schedule)


def judged(row: Published, answer: Answer) -> dict[str, bool]:
    """What of an answer is right, for the values that the row states."""
    found = {
        "optimizer": kind_of(answer.optimizer) == row.kind,
        "exact name": answer.optimizer == row.optimizer,
    }
    if row.lr is not None:
        off = abs(math.log(answer.lr / row.lr)) if answer.lr else math.inf
        found |= {"lr x3": off <= math.log(3) + 1e-9, "lr x10": off <= math.log(10) + 1e-9}
        if not math.isnan(answer.low):
            found["in range"] = answer.low * (1 - 1e-9) <= row.lr <= answer.high * (1 + 1e-9)
    stated = row.decay()
    if stated is not None:
        form, size = answer.decay or ("none", 0.0)
        form = form if size else "none"
        same = form == stated[0]
        found["decay form"] = same
        near = size == stated[1] or (size > 0 and stated[1] > 0 and abs(math.log10(size / stated[1])) <= 0.5 + 1e-9)
        found["decay"] = same and near
    if row.schedule is not None:
        found["schedule"] = schedule_kind(row.schedule) == schedule_kind(answer.schedule)
    return found


def measured(answers: dict[str, Answer], rows: tuple[Published, ...]) -> dict[str, tuple[int, int]]:
    """Figure -> (right, counted)."""
    right: Counter[str] = Counter()
    counted: Counter[str] = Counter()
    for row in rows:
        for figure, is_right in judged(row, answers[row.id]).items():
            right[figure] += is_right
            counted[figure] += 1
    return {figure: (right[figure], counted[figure]) for figure in FIGURES if counted[figure]}


def run() -> tuple[dict[str, dict[str, tuple[int, int]]], dict[str, Answer]]:
    """All tables: method -> figures; and the answers with copies left out."""
    rows = published()
    found: dict[str, dict[str, tuple[int, int]]] = {}
    shown: dict[str, Answer] = {}
    for name, leave in LEAVE.items():
        strict = name.endswith("strict")
        answers = {row.id: advised(of_published(row), leave(row, rows), strict) for row in rows}
        found[f"advisor, {name} left out"] = measured(answers, rows)
        if name == "copies":
            shown = answers
            peaks = tuple(row for row in rows if row.lr_is_peak)
            found["  of these, lr is a peak rate"] = measured(answers, peaks)
            found["  of these, in recipes.json"] = measured(answers, rows[:FIRST])
            found["  in recipes.json, lr is a peak rate"] = measured(answers, of_first(peaks))
            found["  collected after the rules stood"] = measured(answers, rows[FIRST:])
            struck = {row.id: advised(without_optimizer(of_published(row)), copies(row, rows), False) for row in rows}
            found["  optimizers struck out of names"] = measured(struck, rows)
    first = rows[:FIRST]
    alone = {row.id: advised(of_published(row), member(row, first), False) for row in first}
    found["advisor, recipes.json alone, member left out"] = measured(alone, first)
    for name, method in (("always AdamW 1e-3", always_adamw), ("decision tree of the seeds", seeds)):
        found[name] = measured({row.id: method(of_published(row)) for row in rows}, rows)
    return found, shown


def table(found: dict[str, dict[str, tuple[int, int]]]) -> str:
    """The figures in percent, in Markdown, with the goals."""
    lines = ["| method | " + " | ".join(FIGURES) + " |", "|---" * (len(FIGURES) + 1) + "|"]
    lines.append("| goal | " + " | ".join(_goal(figure) for figure in FIGURES) + " |")
    for name, figures in found.items():
        cells = [f"{100 * figures[f][0] / figures[f][1]:.1f}" if f in figures else "-" for f in FIGURES]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    counted = next(iter(found.values()))
    lines.append("| configurations counted | " + " | ".join(str(counted[f][1]) for f in FIGURES) + " |")
    return "\n".join(lines)


def _goal(figure: str) -> str:
    if figure == "in range":
        return "80 to 95"
    return f"{100 * GOALS[figure]:.0f}" if figure in GOALS else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", action="store_true", help="also print every answer, with copies left out")
    parser.add_argument("--json", type=Path, help="write the figures")
    options = parser.parse_args()
    found, answers = run()
    print(table(found))
    if options.rows:
        for row in published():
            answer = answers[row.id]
            wrong = [figure for figure, is_right in judged(row, answer).items() if not is_right]
            print(f"{row.id}: {row.optimizer} {row.lr} {row.decay()} {row.schedule}; advised {answer}; wrong: {wrong}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
