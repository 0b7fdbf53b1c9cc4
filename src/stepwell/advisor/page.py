"""A self-contained page: the recipe, the published rates around it, and the decision tree drawn."""

from __future__ import annotations

import html
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepwell.advisor.evidence import disputes
from stepwell.advisor.explain import TITLES
from stepwell.advisor.published import published
from stepwell.advisor.tree import GUIDE, SEEDS, Leaf, Question, walk
from stepwell.arguments import path
from stepwell.errors import UsageError
from stepwell.files import write_whole

if TYPE_CHECKING:
    from stepwell.advisor.recipe import Recipe

_COLUMN, _WIDTH = 270, 1180
_STYLE = """
:root { color-scheme: light dark; --ink: #1d2430; --paper: #fff; --line: #9aa5b5; --mine: #1668b8; --soft: #eef2f7; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --paper: #14181f; --line: #5c6778; --mine: #6cb4ff;
  --soft: #222936; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1200px;
  margin: 2em auto; padding: 0 1em; }
table { border-collapse: collapse; width: 100%; } td, th { text-align: left; vertical-align: top; padding: .3em .6em;
  border-bottom: 1px solid var(--line); } th { white-space: nowrap; } .tree { overflow-x: auto; }
svg text { fill: var(--ink); font: 13px system-ui, sans-serif; } svg .small { font-size: 11px; opacity: .8; }
svg path { stroke: var(--line); fill: none; } svg .mine { stroke: var(--mine); stroke-width: 2.5; }
svg rect { fill: var(--soft); stroke: var(--line); } svg rect.mine { stroke: var(--mine); stroke-width: 2.5; }
svg circle { fill: var(--line); } svg circle.near { fill: var(--mine); } blockquote { margin: .5em 1em; }
"""


def write(target: Any, recipe: Recipe) -> Path:
    """Write the page. Returns its path. Raises UsageError if it cannot be written."""
    file = path("advise", "page", target)
    if file.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"advise: the page is HTML; give a name that ends in .html, not {file.name}")
    return write_whole(file, page(recipe))


def page(recipe: Recipe) -> str:
    """The page as HTML, without scripts and without anything from a network."""
    rows = "".join(_row(recipe, name, title) for name, title in TITLES.items() if name in recipe.choices)
    near = "".join(
        f"<tr><td>{d:.1f}</td><td>{_e(name)}</td><td>{_e(words)}</td></tr>" for name, d, words in recipe.near
    )
    both = "".join(
        f"<p><b>{_e(one.advice)}</b></p><blockquote>For: {_e(one.supports)}<br>Against: {_e(one.against)}</blockquote>"
        for one in disputes(recipe)
    )
    against = "".join(f"<p><b>{_e(one.severity)}</b>: {_e(str(one))}</p>" for one in recipe.objections)
    notes = "".join(f"<li>{_e(note)}</li>" for note in recipe.notes)
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        f"<title>{_e(recipe.name)}</title><style>{_STYLE}</style><h1>{_e(recipe.name)}</h1>"
        f"<ul>{notes}</ul>" + (f"<h2>What speaks against what was asked for</h2>{against}" if against else "")
        + f"<h2>Values</h2><table><tr><th>value<th><th>sure<th>why<th>from{rows}</table>"
        f"<h2>Published rates of {_e(recipe.optimizer)} and its kind</h2>{_rates(recipe)}"
        f"<h2>Nearest published configurations</h2><table><tr><th>distance<th>id<th>difference{near}</table>"
        + (f"<h2>Where published evidence disagrees</h2>{both}" if both else "")
        + "<h2>The decision tree</h2><p>The way of this training is marked. What published evidence says against a leaf"
        f" stands under it.</p><div class=tree>{drawing(SEEDS, recipe)}</div>"
        f"<h2>The selection guide</h2><div class=tree>{drawing(GUIDE, recipe)}</div></html>\n"
    )  # fmt: skip


def _row(recipe: Recipe, name: str, title: str) -> str:
    choice = recipe[name]
    cells = (title, str(choice) or "nothing", choice.sure, choice.reason, "; ".join(choice.sources))
    return "<tr>" + "".join(f"<td>{_e(cell)}</td>" for cell in cells) + "</tr>"


def _e(text: str) -> str:
    return html.escape(text)


def _rates(recipe: Recipe) -> str:
    """Published rates of this kind of optimizer on a line; the nearest are marked, and the range of the recipe."""
    from stepwell.advisor.published import kind_of

    kind = kind_of(recipe.published_optimizer)
    near = {name for name, _, _ in recipe.near}
    rates = [row for row in published() if row.kind == kind and row.lr and row.lr_is_peak]
    low, high = recipe.lr_range
    values = [math.log10(value) for value in (*(row.lr for row in rates if row.lr), low, high, recipe.lr) if value > 0]
    if not values:
        return "<p>none</p>"
    first, last = math.floor(min(values)), math.ceil(max(values)) + (min(values) == max(values))

    def x(value: float) -> float:
        return 40 + 1100 * (math.log10(value) - first) / max(1, last - first)

    marks = "".join(
        f'<text class=small x="{x(10.0**power):.0f}" y="74" text-anchor="middle">1e{power}</text>'
        for power in range(first, last + 1)
    )
    dots = "".join(
        f'<circle class="{"near" if row.id in near else "far"}" cx="{x(row.lr or 1):.1f}" '
        f'cy="{34 + 9 * math.sin(number * 2.4):.1f}" r="{5 if row.id in near else 3}">'
        f"<title>{_e(row.id)}: {row.lr:g}</title></circle>"
        for number, row in enumerate(sorted(rates, key=lambda row: row.id in near))
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} 84" width="100%"><path d="M40 58H1140"/>{marks}'
        f'<path class=mine d="M{x(low):.1f} 58H{x(high):.1f}" stroke-width="6"/>{dots}'
        f'<path class=mine d="M{x(recipe.lr):.1f} 12V62"/></svg>'
    )


def drawing(tree: Question | Leaf, recipe: Recipe) -> str:
    """The tree as SVG, the way of the recipe's situation marked."""
    leaf = walk(tree, recipe.situation)
    shapes: list[str] = []
    height = _draw(tree, 0, 10, leaf, shapes)
    return f'<svg viewBox="0 0 {_WIDTH} {height + 10}" width="{_WIDTH}">' + "".join(shapes) + "</svg>"


def _holds(tree: Question | Leaf, leaf: Leaf) -> bool:
    return tree is leaf if isinstance(tree, Leaf) else any(_holds(leads, leaf) for _, _, leads in tree.branches)


def _draw(tree: Question | Leaf, depth: int, top: int, leaf: Leaf, shapes: list[str]) -> int:
    """Draw a part of the tree from `top` down. Returns where it ends."""
    left, mine = 10 + depth * _COLUMN, ' class="mine"' if _holds(tree, leaf) else ""
    if isinstance(tree, Leaf):
        lines = [str(tree), *_lines(f"but: {tree.doubt}" if tree.doubt else "", (_WIDTH - left) // 6 - 6)]
        tall = 14 + 16 * len(lines)
        shapes.append(f'<rect{mine} x="{left}" y="{top}" width="{_WIDTH - left - 10}" height="{tall}" rx="6"/>')
        for number, line in enumerate(lines):
            small = " class=small" if number else ""
            shapes.append(f'<text{small} x="{left + 10}" y="{top + 19 + 16 * number}">{_e(line)}</text>')
        return top + tall + 8
    shapes.append(f'<text x="{left}" y="{top + 18}" font-weight="bold">{_e(tree.text)}</text>')
    start, top = top + 26, top + 34
    for answer, _, leads in tree.branches:
        way = ' class="mine"' if _holds(leads, leaf) else ""
        nested = isinstance(leads, Question)
        shapes.append(f'<path{way} d="M{left + 8} {start}V{top + 16}H{left + 20}"/>')
        shapes.append(f'<text x="{left + 24}" y="{top + 21}">{_e(answer)}</text>')
        end = left + 32 + 6.9 * len(answer)  # of the text, about
        if not nested and end < left + _COLUMN:
            shapes.append(f'<path{way} d="M{end:.0f} {top + 16}H{left + _COLUMN}"/>')
        top = _draw(leads, depth + 1, top + (30 if nested else 0), leaf, shapes)
    return top


def _lines(text: str, width: int) -> list[str]:
    import textwrap

    return textwrap.wrap(text, max(20, width))
