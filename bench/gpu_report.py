"""The figures of a visit to a GPU, written after each row: a visit that is cut off leaves what it has."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from gpu_plan import LEGEND
from table import Table, summary


class Report:
    """Two files, `2026-11-30-nvidia-h200-visit.json` and `.txt`, which always say all that is known."""

    def __init__(self, folder: Path, device: str, facts: dict[str, Any], settings: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.stem = _free(folder, f"{facts['date']}-{slug(device)}-visit")
        self.facts, self.settings = facts, settings
        self.tests: Any = None
        self.tables: list[Table] = []
        self.parts: list[dict[str, Any]] = []  # how each part went
        self.failures: list[dict[str, str]] = []
        self.seconds = 0.0

    def path(self, suffix: str) -> Path:
        """One of the files."""
        return self.stem.with_name(self.stem.name + suffix)

    def write(self) -> None:
        """Both files, each replaced as a whole."""
        _replace(self.path(".json"), json.dumps(self.to_json(), indent=1) + "\n")
        _replace(self.path(".txt"), self.text())

    def to_json(self) -> dict[str, Any]:
        return {
            "machine": self.facts,
            "settings": self.settings,
            "seconds": round(self.seconds, 1),
            "parts": self.parts,
            "tests": None if self.tests is None else self.tests.to_json(),
            "tables": [table.to_json() for table in self.tables],
            "failures": self.failures,
        }

    def text(self) -> str:
        """The facts, the tests, the tables, and how each part went."""
        blocks = [facts_text(self.facts)]
        if self.tests is not None:
            blocks.append(self.tests.text())
        if self.tables:
            blocks += ["\n".join(LEGEND), *(table.text() for table in self.tables)]
            blocks.append("\n".join(summary([table.to_json() for table in self.tables], self.settings["scale"])))
        blocks.append("\n".join(part_text(part) for part in self.parts))
        return "\n\n".join(block for block in blocks if block) + "\n"


def facts_text(facts: dict[str, Any]) -> str:
    """The facts in one line."""
    return ", ".join(f"{key} {value}" for key, value in facts.items() if key != "problem")


def part_text(part: dict[str, Any]) -> str:
    """How one part went, in one line."""
    return f"{part['name']}: {part['state']}, {part['seconds']:.0f} of {part['budget']:.0f} s"


def slug(device: str) -> str:
    """The name of a device for the name of a file: letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-") or "device"


def _free(folder: Path, name: str) -> Path:
    """The first of `name`, `name-2`, ... that no earlier visit has written."""
    number = 1
    while True:
        stem = folder / (name if number == 1 else f"{name}-{number}")
        if not any(stem.with_name(stem.name + suffix).exists() for suffix in (".json", ".txt", "-tests.txt")):
            return stem
        number += 1


def _replace(path: Path, text: str) -> None:
    """Write a file under another name first, so that a reader finds the old one or the new one."""
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    os.replace(new, path)
