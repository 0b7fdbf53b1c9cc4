"""The parts that all exercises share: the options, the colors, and how a picture and its numbers are written.

python examples/exercises/all_schedules.py                        # the picture is written next to the program
python examples/exercises/all_schedules.py picture.png --quick    # a short run, for a test of the program
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

# Told apart by readers who do not see red and green: Okabe and Ito, "Color universal design", 2008.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#333333")


@dataclass(frozen=True)
class Options:
    """The options of one exercise.

    Attributes:
        picture: the path of the picture. quick: whether to make a short run.
        numbers: the path of a JSON file for the numbers, or None.
    """

    picture: Path
    quick: bool
    numbers: Path | None


def options(description: str | None) -> Options:
    """Read the options from the command line of the running program."""
    program = Path(sys.argv[0])
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument(
        "picture", type=Path, nargs="?", default=program.with_suffix(".png"), help="path of the picture"
    )
    parser.add_argument("--quick", action="store_true", help="a short run whose numbers say little")
    parser.add_argument("--numbers", type=Path, help="also write the numbers to this JSON file")
    torch.set_num_threads(1)  # the models are so small that a second thread costs more than it saves
    return Options(**vars(parser.parse_args()))


def panels(rows: int, columns: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """A figure of this size in inches, and its axes row by row."""
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axis in axes:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def finish(figure: Figure, numbers: Mapping[str, Any], options: Options) -> None:
    """Write the picture and the numbers, and print the numbers."""
    options.picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.picture, dpi=85)
    # 255 colors: a third of the bytes, without a difference to see.
    with Image.open(options.picture) as picture:
        few = picture.convert("RGB").quantize(255, Image.Quantize.MEDIANCUT, kmeans=3, dither=Image.Dither.NONE)
    few.save(options.picture, optimize=True)
    for name, value in numbers.items():
        print(f"{name}: {value}")
    print(f"picture: {options.picture}")
    if options.numbers is not None:
        options.numbers.write_text(json.dumps(numbers, indent=1) + "\n")
