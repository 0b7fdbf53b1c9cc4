"""The published configurations as a list: found by words, printed as a table, as facts, and as docs/recipes.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from stepwell.advisor.choice import written
from stepwell.advisor.classics import CLASSICS
from stepwell.advisor.published import Published, find, published, search
from stepwell.errors import UsageError, nearest, shown


def found(words: str) -> list[Published]:
    """The configurations that match, the best first; all without words. Raises UsageError if none does."""
    if not words.strip():
        return list(published())
    if words in CLASSICS:
        return [find(CLASSICS[words])]
    rows = search(words)
    exact = [row for row in rows if row.id == words]
    if exact:
        return exact
    if not rows:
        known = sorted({row.family for row in published()} | set(CLASSICS))
        raise UsageError(f"recipes: no configuration matches {shown(words)}; {nearest(words, known)}")
    return rows


def facts(rows: Sequence[Published]) -> list[dict[str, Any]]:
    """All fields of the configurations, and their short names."""
    names = {row: [short for short, long in CLASSICS.items() if long == row.id] for row in rows}
    return [{**asdict(row), "names": names[row]} for row in rows]


def table(rows: Sequence[Published]) -> str:
    """One line per configuration."""
    lines = [("id", "optimizer", "lr", "weight decay", "schedule", "batch", "family")]
    lines += [
        (row.id, row.optimizer, _cell(row.lr), _cell(row.weight_decay), row.schedule or "-", _batch(row), row.family)
        for row in rows
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _cell(value: float | None) -> str:
    return "-" if value is None else written(float(value))


def _batch(row: Published) -> str:
    if row.batch_size is None:
        return "-"
    unit = "" if row.batch_unit == "samples" else f" {row.batch_unit}"
    return f"{row.batch_size:g}{unit}"


def page() -> str:
    """docs/recipes.md: every configuration by family, with its source."""
    rows = published()
    lines = [
        "# Published configurations",
        "",
        f"Written by `stepwell recipes --markdown` from the {len(rows)} configurations behind the advice. A dash is",
        "a value that the source does not state; it is neither zero nor a default. `stepwell.recipe(<id>)` makes a",
        "recipe of each, and `stepwell recipes <id> --show` explains it.",
        "",
        "Verified: *primary* is the author's or the framework's own file, *primary_copy* the right file in a fork "
        "or an",
        "early version, *secondary* a third party that quotes the paper.",
        "",
        "| short name | id |",
        "|---|---|",
        *(f"| `{short}` | `{long}` |" for short, long in CLASSICS.items()),
    ]
    for family in sorted({row.family for row in rows}):
        lines += [
            "",
            f"## {family}",
            "",
            "| id | task, data | batch | optimizer | lr | weight decay | schedule | source |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for row in (row for row in rows if row.family == family):
            decay = (
                "-" if row.weight_decay is None else f"{written(float(row.weight_decay))} {row.wd_type or ''}".strip()
            )
            about = f"{row.task}, {row.dataset}" if row.dataset else row.task
            cells = [f"`{row.id}`", about, _batch(row), row.optimizer, _cell(row.lr), decay, row.schedule or "-"]
            lines.append("| " + " | ".join([*cells, f"{row.source.replace('|', '/')} ({row.verified})"]) + " |")
    return "\n".join(lines) + "\n"
