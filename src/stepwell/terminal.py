"""Functions for the commands of all rooms: exit codes, messages on stderr, and machine-readable lists."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from typing import Any

from stepwell.errors import MissingExtra, printable

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


class Told(int):
    """An exit code, after the command has printed the reason."""


def say(text: str) -> None:
    """One line on stderr, after the name of the program."""
    with contextlib.suppress(OSError):  # nobody listens
        print(f"stepwell: {printable(text)}", file=sys.stderr)


def require(needed_for: str, *packages: str) -> None:
    """Raise MissingExtra early, for a package that is needed only after the training."""
    from importlib.util import find_spec

    for package in packages:
        if find_spec(package) is None:
            raise MissingExtra(package, "tools", needed_for)


def print_facts(facts: Sequence[dict[str, Any]], columns: Sequence[str], as_json: bool) -> None:
    """Facts as JSON, or some of them as aligned columns."""
    if as_json:
        import json

        print(json.dumps(facts, indent=1))
        return
    rows = [list(columns), *([_cell(fact[column]) for column in columns] for fact in facts)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list):
        return ",".join(value) or "-"
    return f"{value:g}" if isinstance(value, float) else str(value)


def width() -> int:
    """The line width of the terminal, from 40 to 100 characters."""
    import shutil

    return max(40, min(100, shutil.get_terminal_size((78, 24)).columns))


def is_plain() -> bool:
    """Whether the output takes ASCII only."""
    return "utf" not in (sys.stdout.encoding or "").lower()
