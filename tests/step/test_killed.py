"""A training process is really killed, again and again, and the run ends as if nothing had happened."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("killed.py")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["AdamW", "Sophia"])
def test_a_killed_run_ends_bit_for_bit_as_one_that_was_not(method: str, tmp_path: Path) -> None:
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    subprocess.run([sys.executable, SCRIPT, tmp_path / "whole", method], check=True, capture_output=True)

    chance = random.Random(0)
    reached: list[int] = []
    for number in (5, 14, 23):  # killed somewhere after this update
        command = [sys.executable, str(SCRIPT), str(tmp_path / "killed"), method]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= number:
                time.sleep(chance.random() * 0.02)  # anywhere in an update or in a save
                process.kill()
                break
        assert process.wait() == -9
        reached += [int(line) for line in process.stdout if line.strip()] or [number]
        process.stdout.close()
    assert not (tmp_path / "killed" / "end.pt").exists()
    assert reached[-1] >= 23
    subprocess.run([sys.executable, SCRIPT, tmp_path / "killed", method], check=True, capture_output=True)

    whole, killed = (torch.load(tmp_path / name / "end.pt", weights_only=True) for name in ("whole", "killed"))
    for one, other in zip(whole, killed, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert torch.equal(one[name], other[name]), name
