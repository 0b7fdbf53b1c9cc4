"""The examples for trainers of others run and learn. Each is left out where its package is not installed."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
CHANCE = 1.386  # nats: the loss of four equally likely classes


# Their own warnings are not ours to mend.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("example", "package"),
    [
        ("with_accelerate.py", "accelerate"),
        ("with_lightning.py", "pytorch_lightning"),
        ("with_trainer.py", "transformers"),
    ],
)
def test_an_example_learns(example: str, package: str) -> None:
    pytest.importorskip(package)
    assert float(runpy.run_path(str(EXAMPLES / example))["main"]()) < 0.4 * CHANCE
