"""What every optimizer's step costs: time, memory, first step, beside the best installed peer. `make bench` runs this.

    python bench/step.py [--device cpu] [--only AdamW,Lion,loop] [--rounds 9] [--scale 1] [--json FILE]

First AdamW in the settings where people meet it (tables `large`, `small`, `loop`, `clipped`, `formats`), then the whole
catalogue. Everything that is compared is timed in one process, in turn, on the same tensors; a ratio is the median of
the ratios of single rounds. The speed of memory (`of limit`) is that of a tensor scaled in place in the same rounds;
the bytes that a rule must move come from its declared slots and their formats. First steps and peaks of memory are
those of fresh processes. Beside every figure that has a goal stand the goal and whether it is met.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

import adamw
import catalogue
import peers
from measure import machine
from stepwell.errors import UsageError, unknown
from stepwell.optimizers import TABLE, find
from table import Table, summary


def chosen(only: str | None, tables: list[str]) -> tuple[list[str], list[str]]:
    """The tables and the optimizers that `--only` names; all of both without it.

    Raises UsageError for a name that is neither.
    """
    if only is None:
        return tables, list(TABLE)
    names = [name.strip() for name in only.split(",") if name.strip()]
    wanted, optimizers = [], []
    for name in names:
        if name in tables:
            wanted.append(name)
            continue
        try:
            optimizers.append(find(name).__name__)
        except UsageError:
            raise unknown("optimizer or table", name, [*tables, *TABLE]) from None
    return wanted, optimizers


def show(table: Table) -> dict[str, Any]:
    """Print a table; its JSON."""
    print(f"\n{table.text()}", flush=True)
    return table.to_json()


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--backend", default="auto", choices=["auto", "eager", "cpu", "gpu"], help="of our optimizers")
    parser.add_argument("--only", help="optimizers and tables (large, small, loop, clipped, formats), with commas")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--scale", type=float, default=1.0, help="of the sizes; goals hold at 1")
    parser.add_argument("--no-fresh", action="store_true", help="leave out first steps and peaks of memory")
    parser.add_argument("--json", help="also write the figures to this file")
    return parser.parse_args()


def main() -> None:
    options = parse()
    settings = catalogue.Settings(
        options.device, options.rounds, options.scale, options.backend, fresh=not options.no_fresh
    )
    settings_tables = adamw.tables(settings)
    try:
        wanted, names = chosen(options.only, list(settings_tables))
    except UsageError as error:
        sys.exit(str(error))
    facts = machine(options.device)
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    versions = peers.installed()
    print("peers: " + ", ".join(f"{name} {number or '- (not installed)'}" for name, number in versions.items()))
    results = [show(settings_tables[name]()) for name in wanted]

    def progress(words: str) -> None:
        print(f"  ... {words}", file=sys.stderr, flush=True)

    results += [show(table) for table in catalogue.tables(names, settings, progress)] if names else []
    print("\n" + "\n".join(summary(results, options.scale)))
    print(f"load at the end: {os.getloadavg()}")
    if options.json:
        figures = {
            "machine": facts,
            "peers": versions,
            "settings": vars(options),
            "tables": results,
            "load at the end": os.getloadavg(),
        }
        with open(options.json, "w") as file:
            json.dump(figures, file, indent=1)


if __name__ == "__main__":
    main()
