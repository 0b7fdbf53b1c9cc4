"""Parameters cut over two processes take the steps of whole ones: sums go over the mesh, empty shards do not hang."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import stepwell
from stepwell.optimizers import find
from tests.contract.test_contract import leaves, run
from tests.sharding import fsdp
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


def in_two_processes(module: str, folder: Path, *arguments: str) -> Any:
    """What the first of two processes saved."""
    command = [sys.executable, "-W", "ignore", "-m", f"tests.sharding.{module}"]
    files = [str(folder / "store"), str(folder / "out.pt")]
    both = [
        subprocess.Popen(
            [*command, str(rank), *files, *arguments], stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
        )
        for rank in (0, 1)
    ]
    errors = [process.communicate(timeout=200)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    return torch.load(folder / "out.pt")


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two processes found, for each case."""
    return in_two_processes("shards", tmp_path_factory.mktemp("shards"), json.dumps(CASES))


@pytest.mark.slow
@pytest.mark.xdist_group("sharding")
@pytest.mark.parametrize("case", range(len(CASES)))
def test_shards_step_like_the_whole(case: int, ends: list[dict[str, Any]]) -> None:
    name, options = CASES[case]
    params, grads = problem()
    whole = leaves(params)
    optimizer = find(name)(whole, **options)
    run(optimizer, whole, [*grads, grads[0]])
    # sums are added up in another order; blocks of codes are others in a shard
    bound = 2e-2 if options.get("state") == "int8" else 1e-5
    for ours, expected in zip(ends[case]["params"], whole, strict=True):
        torch.testing.assert_close(ours, expected.detach(), rtol=bound, atol=bound)
    for norm, row in zip(ends[case]["norms"], grads, strict=True):
        assert norm == pytest.approx(float(torch.cat([g.flatten() for g in row]).norm()), rel=1e-6)
    assert ends[case]["kinds"]["exp_avg"]  # spread as its parameter: distributed checkpoints know where it lies


@pytest.mark.slow
def test_a_step_under_fsdp_is_that_of_one_process(tmp_path: Path) -> None:
    """Accumulation, clipping by the norm over the mesh, and norms of whole tensors in LAMB."""
    found = in_two_processes("fsdp", tmp_path)
    whole = fsdp.model()
    step = stepwell.Step(stepwell.LAMB(whole.named_parameters(), **fsdp.OPTIONS), clip_norm=0.3, accumulate=2)
    norms = fsdp.train(step, whole) + fsdp.around(whole)  # the second Step and the plain loop are synchronised, too
    assert norms == pytest.approx(found["norms"], rel=1e-5)
    for ours, expected in zip(found["params"], whole.parameters(), strict=True):
        torch.testing.assert_close(ours, expected.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_each_rank_of_a_sharded_model_has_a_checkpoint_of_its_own(tmp_path: Path) -> None:
    """In one file there would be the part of rank 0 alone."""
    found = in_two_processes("saved", tmp_path)
    assert torch.equal(found["one"], found["other"])
    assert [len(ends) for ends in found["distributed"]] == [2, 2, 3, 3]  # those of whole blocks in one process, too
    for one, *others in found["distributed"]:
        assert [float((one - other).abs().max()) for other in others] == pytest.approx([0.0] * len(others), abs=1e-6)
    for rank in range(2):
        (said,) = found["said"][rank]
        assert f"is rank {1 - rank}'s part of a sharded model, and this is rank {rank}" in said
