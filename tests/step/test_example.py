"""The example runs, learns, and goes on bit for bit where it was stopped."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
import torch

EXAMPLE = Path(__file__).parents[2] / "examples" / "plain_loop.py"


def run(folder: Path, epochs: int, monkeypatch: pytest.MonkeyPatch) -> float:
    monkeypatch.setattr(sys, "argv", ["plain_loop.py", "--out", str(folder), "--epochs", str(epochs)])
    return runpy.run_path(str(EXAMPLE))["main"]()


def test_the_plain_loop_learns_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(tmp_path / "whole", 8, monkeypatch) > 0.85
    run(tmp_path / "stopped", 3, monkeypatch)
    run(tmp_path / "stopped", 8, monkeypatch)
    whole, stopped = (
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["model"] for name in ("whole", "stopped")
    )
    assert all(torch.equal(whole[name], stopped[name]) for name in whole)
