"""Parameters cut over two processes take the steps of whole ones: sums go over the mesh, empty shards do not hang."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from stepwell.optimizers import find
from tests.contract.test_contract import leaves, run
from tests.sharding.shards import problem

pytest.importorskip("torch.distributed")

CASES: list[tuple[str, dict[str, Any]]] = [
    ("AdamW", {"lr": 0.02, "weight_decay": 0.1}),
    ("AdamW", {"lr": 0.02, "state": "int8"}),
    ("LAMB", {"lr": 0.02, "weight_decay": 0.1}),
    ("StableAdamW", {"lr": 0.02, "clip_threshold": 0.5}),
    ("Prodigy", {"d0": 1e-2}),
    ("Lion", {"lr": 0.02, "cautious": True}),
    ("AdamW", {"lr": 0.02, "backend": "eager"}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), CASES)
def test_shards_step_like_the_whole(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    arguments = [str(tmp_path / "store"), str(tmp_path / "out.pt"), name, json.dumps(options)]
    command = [sys.executable, "-W", "ignore", "-m", "tests.sharding.shards"]
    both = [
        subprocess.Popen(
            [*command, str(rank), *arguments], stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
        )
        for rank in (0, 1)
    ]
    errors = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    found = torch.load(tmp_path / "out.pt")

    params, grads = problem()
    whole = leaves(params)
    optimizer = find(name)(whole, **options)
    run(optimizer, whole, [*grads, grads[0]])
    # sums are added up in another order; blocks of codes are others in a shard
    bound = 2e-2 if options.get("state") == "int8" else 1e-5
    for ours, expected in zip(found["params"], whole, strict=True):
        torch.testing.assert_close(ours, expected.detach(), rtol=bound, atol=bound)
    for norm, row in zip(found["norms"], grads, strict=True):
        assert norm == pytest.approx(float(torch.cat([g.flatten() for g in row]).norm()), rel=1e-6)
    assert found["kinds"]["exp_avg"]  # state is spread as its parameter: distributed checkpoints know where it lies
