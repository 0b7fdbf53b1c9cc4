"""Several processes and one checkpoint: each rank goes on with its own generators, and nobody waits for another."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from stepwell.errors import UsageError
from stepwell.optimizers import SGD
from stepwell.step import Step
from tests.processes import in_two_processes
from tests.step.small import data, flat

pytest.importorskip("torch.distributed")

SAVED, END = 3, 6


def make() -> tuple[nn.Module, Step]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 7), nn.Dropout(0.5), nn.Linear(7, 3))
    parallel = nn.parallel.DistributedDataParallel(network)
    return parallel, Step(SGD(network.named_parameters(), lr=0.1, backend="eager"), model=parallel)


def train(network: nn.Module, step: Step, rank: int, begin: int, end: int) -> None:
    for number in range(begin, end):
        x, y = data(seed=10 * number + rank)
        step(nn.functional.cross_entropy(network(x), y))


def resumed(path: Path, rank: int) -> dict[str, Any]:
    network, step = make()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        extra = step.load(path)
    drawn = torch.rand(4)
    if not said:
        step.load(path)
    train(network, step, rank, SAVED, END)
    said_words = [str(one.message) for one in said]
    return {"flat": flat(network).tolist(), "said": said_words, "drawn": drawn.tolist(), "extra": extra}


def worker(rank: int, port: int, queue: Any) -> None:
    folder = Path(os.environ["STEPWELL_TEST_FOLDER"])
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"tcp://localhost:{port}", rank=rank, world_size=2)
    found: dict[str, Any] = {}
    network, step = make()
    torch.manual_seed(100 + rank)
    train(network, step, rank, 0, SAVED)
    if rank == 0:
        step.save(folder / "first.pt", extra="first alone")
    step.save(folder / f"own{rank}.pt", extra=rank)
    for number in range(4):
        torch.distributed.barrier()
        step.save(folder / "all.pt", extra=number)
    train(network, step, rank, SAVED, END)
    found["whole"] = flat(network).tolist()
    torch.distributed.barrier()
    found["names"] = sorted(file.name for file in folder.iterdir())
    for name in ("all.pt", f"own{rank}.pt", "first.pt"):
        found[name.replace(str(rank), "")] = resumed(folder / name, rank)
    torch.distributed.barrier()
    network, step = make()
    step.load(folder / "all.pt")
    step.save(folder / "all.pt", extra="after")
    torch.distributed.barrier()
    found["after"] = torch.load(folder / "all.pt")["extra"], sorted(file.name for file in folder.glob("all*"))
    queue.put((rank, found))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEPWELL_TEST_FOLDER", str(tmp_path_factory.mktemp("ranks")))
        return dict(in_two_processes(worker))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["all.pt", "own.pt"])
def test_every_rank_goes_on_bit_for_bit(name: str, found: dict[int, dict[str, Any]]) -> None:
    for rank in range(2):
        assert found[rank][name]["flat"] == found[rank]["whole"]
        assert found[rank][name]["said"] == []
    assert found[0][name]["drawn"] != found[1][name]["drawn"]
    assert found[0]["whole"] == found[1]["whole"]


@pytest.mark.slow
def test_what_rank_0_saved_alone_gives_each_rank_a_dropout_of_its_own(found: dict[int, dict[str, Any]]) -> None:
    first = [found[rank]["first.pt"] for rank in range(2)]
    assert first[0]["drawn"] != first[1]["drawn"]
    assert first[0]["said"] == []
    assert len(first[1]["said"]) == 1
    assert "none of rank 1 was saved with it" in first[1]["said"][0]
    assert first[0]["flat"] == first[1]["flat"]


@pytest.mark.slow
def test_all_ranks_saving_to_one_path_do_not_mix(found: dict[int, dict[str, Any]]) -> None:
    names = [name for name in found[0]["names"] if name.startswith("all")]
    assert [name for name in names if not name.startswith("all.pt.rank1")] == ["all.1.pt", "all.2.pt", "all.pt"]
    assert "all.pt.rank1" in names
    assert found[0]["all.pt"]["extra"] == found[1]["all.pt"]["extra"] == 3
    assert found[0]["after"] == found[1]["after"]
    assert found[0]["after"][0] == "after"
    assert found[0]["after"][1] == names


def test_a_checkpoint_of_several_ranks_is_loaded_by_one_process(tmp_path: Path) -> None:
    network = nn.Linear(5, 3)
    step = Step(SGD(network.named_parameters(), lr=0.1), model=network)
    state = step.state_dict()
    with pytest.raises(UsageError, match="generators"):
        step.load_state_dict({**state, "generators": {}})
    step.save(tmp_path / "run.pt")
    step.load(tmp_path / "run.pt")
