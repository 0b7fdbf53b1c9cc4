"""Tables of figures with their goals: printed for people, and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from goals import Goal

MISSING = "-"


@dataclass(frozen=True)
class Column:
    """A figure of every row: its key, what stands above it, and how a value is written."""

    key: str
    title: str
    write: Callable[[Any], str] = str
    left: bool = False


@dataclass
class Table:
    """Rows of figures. A row is a dict; a figure that is None, or that is not there, is printed as a dash."""

    title: str
    columns: tuple[Column, ...]
    rows: list[dict[str, Any]] = field(default_factory=list)
    goals: list[dict[str, Goal]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, row: dict[str, Any], goals: Mapping[str, Goal | None] | None = None) -> None:
        """Append a row, with the goals of some of its figures by key."""
        self.rows.append(row)
        self.goals.append({key: goal for key, goal in (goals or {}).items() if goal is not None})

    def judgements(self) -> list[dict[str, Any]]:
        """Every figure that has a goal: which row, which figure, its value, the goal, and whether it is met."""
        first = self.columns[0].key
        return [
            {
                "table": self.title,
                "row": " ".join(str(row[key]) for key in (first, "state") if row.get(key)),
                "figure": next(column.title for column in self.columns if column.key == key),
                "value": row[key],
                "goal": str(goal),
                "met": goal.met(row[key]),
            }
            for row, goals in zip(self.rows, self.goals, strict=True)
            for key, goal in goals.items()
            if row.get(key) is not None
        ]

    def cells(self) -> list[list[str]]:
        """What is printed: the titles, then a line per row. A figure with a goal says it and the verdict."""
        lines = [[column.title for column in self.columns]]
        for row, goals in zip(self.rows, self.goals, strict=True):
            line = []
            for column in self.columns:
                value = row.get(column.key)
                text = MISSING if value is None else column.write(value)
                if column.key in goals and value is not None:
                    text += f" {goals[column.key].verdict(value)}"
                line.append(text)
            lines.append(line)
        return lines

    def text(self) -> str:
        """The table in aligned columns, with its title above and its notes below."""
        lines = self.cells()
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.columns))]
        printed = [self.title]
        for line in lines:
            parts = [
                cell.ljust(width) if column.left else cell.rjust(width)
                for cell, width, column in zip(line, widths, self.columns, strict=True)
            ]
            printed.append("  " + "  ".join(parts).rstrip())
        return "\n".join(printed + [f"  {note}" for note in self.notes])

    def to_json(self) -> dict[str, Any]:
        """Title, rows as they are, goals and verdicts, notes."""
        return {"title": self.title, "rows": self.rows, "judgements": self.judgements(), "notes": self.notes}


def summary(tables: list[dict[str, Any]], scale: float) -> list[str]:
    """How many goals are met, and each that is not."""
    all_of_them = [judgement for table in tables for judgement in table["judgements"]]
    missed = [one for one in all_of_them if not one["met"]]
    lines = [f"goals: {len(all_of_them) - len(missed)} met, {len(missed)} missed"]
    if scale != 1:
        lines.append(f"  the goals are meant for --scale 1, not {scale:g}")
    return lines + [
        f"  missed: {one['row']}, {one['figure']}: {one['value']:.4g}, goal {one['goal']} ({one['table']})"
        for one in missed
    ]


def milliseconds(seconds: float) -> str:
    """As ms, with three digits that mean something."""
    value = seconds * 1e3
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def ratio(value: float) -> str:
    """A ratio with two decimals."""
    return f"{value:.2f}"


def percent(value: float) -> str:
    """A share in per cent."""
    return f"{value:.0%}"


def decimals(count: int) -> Callable[[float], str]:
    """A number with so many decimals."""
    return lambda value: f"{value:.{count}f}"
