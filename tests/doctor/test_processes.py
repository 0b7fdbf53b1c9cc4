"""The doctor in two processes that train together, and around compiled models: nothing is changed, and nobody waits."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import traceback
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from stepwell.doctor import Doctor
from tests.doctor.test_doctor import Net, hooks_of
from tests.processes import in_two_processes

STEPS = 21  # probes at updates 2, 4, 7, 12, 20: DistributedDataParallel sends no buffers after a call without gradients


def batch(step: int, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(10 * step + rank)
    x = torch.randn(32, 8, generator=generator)
    return x, x[:, :4].argmax(1)


def train(
    model: nn.Module, rank: int, watched: bool, steps: int = STEPS, fault: str = "", lr: float = 0.05, **options: Any
) -> tuple[nn.Module, Any, str]:
    """The model, its doctor, and what was printed. Every hook of the doctor is off again."""
    torch.manual_seed(7 + rank)
    hooks = hooks_of(model)  # FSDP has some
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    said = io.StringIO()
    doctor = None
    with contextlib.redirect_stderr(said):
        doctor = Doctor(model, optimizer, **options) if watched else None
        for step in range(steps):
            if fault != "no zero_grad":
                optimizer.zero_grad()
            x, y = batch(step, rank)
            if fault == "nan" and rank == 1 and step >= 5:
                x = x * float("nan")
            out = model(x)
            loss = F.cross_entropy(out.softmax(1) if fault == "softmax" else out, y)
            if doctor is not None:
                doctor.loss(loss)
            loss.backward()
            optimizer.step()
        if doctor is not None:
            assert hooks_of(model) > hooks
            doctor.close()
            assert hooks_of(model) == hooks
    return model, doctor, said.getvalue()


def state(model: nn.Module) -> list[Any]:
    whole = [v.full_tensor() if hasattr(v, "full_tensor") else v for v in model.state_dict().values()]
    return [value.tolist() for value in whole]


def parallel(rank: int, synchronized: bool = False) -> nn.Module:
    torch.manual_seed(3)
    model: nn.Module = Net()
    if synchronized:
        model = Gathers(model)
    return nn.parallel.DistributedDataParallel(model)


class Gathers(nn.Module):
    """A model whose forward pass sums over the processes, as SyncBatchNorm does."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.detach().mean(0)
        torch.distributed.all_reduce(mean)
        return self.inner(x - 0.5 * mean)


def sharded() -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(8, 33), nn.ReLU(), nn.LayerNorm(33), nn.Linear(33, 4))
    mesh = init_device_mesh("cpu", (2,))
    fully_shard(model[0], mesh=mesh)
    return fully_shard(model, mesh=mesh)


def epochs(rank: int, sets: bool) -> list[str]:
    """The findings of a run of 12 epochs over 64 samples."""
    from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

    x, y = (torch.cat(parts) for parts in zip(*(batch(step, 0) for step in range(2)), strict=True))
    sampler: Any = DistributedSampler(TensorDataset(x, y))
    loader = DataLoader(TensorDataset(x, y), batch_size=8, sampler=sampler)
    model = parallel(rank)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    doctor = Doctor(model, optimizer, live=False)
    for epoch in range(12):
        if sets:
            sampler.set_epoch(epoch)
        for one, labels in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(one), labels)
            doctor.loss(loss)
            loss.backward()
            optimizer.step()
    doctor.close()
    return [one.code for one in doctor.findings]


class Lines:
    """A writer of the user."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def step(self, step: int, values: dict[str, float]) -> None:
        self.steps.append(step)

    def finding(self, step: int, text: str, level: str) -> None: ...

    def close(self) -> None: ...


def seen(run: tuple[nn.Module, Any, str]) -> dict[str, Any]:
    model, doctor, said = run
    return {
        "state": state(model), "said": said, "probes": len(doctor.record.probes),
        "found": [(one.code, one.seen) for one in doctor.findings], "left out": doctor.record.left_out,
        "norms": [one.norm for one in doctor.record.samples], "shrunk": [one.shrunk for one in doctor.record.samples],
        "grad": [one.grad for one in doctor.record.samples], "update": [one.update for one in doctor.record.samples],
    }  # fmt: skip


def one_doctor(rank: int, model: nn.Module, **options: Any) -> dict[str, Any]:
    """A run in which rank 1 has a doctor and rank 0 has none: what the doctor sends would have no receiver."""
    if rank == 1:
        return seen(train(model, rank, True, **options))
    return {"state": state(train(model, rank, False, **options)[0])}


def worker(rank: int, port: int, queue: Any) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://localhost:{port}", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    try:
        queue.put((rank, runs(rank)))
        torch.distributed.barrier()
    except BaseException:  # also where the other process waits, or does not come
        queue.put((rank, traceback.format_exc()))
        raise
    finally:
        torch.distributed.destroy_process_group()


def runs(rank: int) -> dict[str, Any]:
    journal = os.environ["STEPWELL_TEST_JOURNAL"]
    found: dict[str, Any] = {}
    found["alone"] = state(train(parallel(rank), rank, False)[0])
    lines = Lines()
    if rank == 1:
        sys.modules["wandb"] = None  # type: ignore[assignment]  # so that its name is refused, if it is asked for
        found["plain"] = seen(train(parallel(rank), rank, True, journal=journal, writers=["wandb", lines]))
    else:
        found["plain"] = seen(train(parallel(rank), rank, True, journal=journal, writers=[lines]))
    found["lines"] = lines.steps
    found["gathers alone"] = state(train(parallel(rank, True), rank, False, lr=0.5)[0])
    found["gathers"], found["one"] = one_doctor(rank, parallel(rank, True), lr=0.5), one_doctor(rank, parallel(rank))
    for fault in ("softmax", "nan", "no zero_grad"):
        found[fault] = seen(train(parallel(rank), rank, True, fault=fault))
    found["same order"], found["set_epoch"] = epochs(rank, False), epochs(rank, True)
    found["sharded alone"] = state(train(sharded(), rank, False)[0])
    found["sharded"] = seen(train(sharded(), rank, True))
    for fault in ("nan", "no zero_grad"):
        found[f"sharded {fault}"] = seen(train(sharded(), rank, True, fault=fault))
    found["sharded one"] = one_doctor(rank, sharded())
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    pytest.importorskip("torch.distributed")
    folder = tmp_path_factory.mktemp("processes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEPWELL_TEST_JOURNAL", str(folder / "run.jsonl"))
        made = dict(in_two_processes(worker))
    assert all(isinstance(one, dict) for one in made.values()), "\n".join(map(str, made.values()))
    made["folder"] = folder
    return made


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "one"])
def test_the_weights_are_those_without_doctors(found: Any, name: str) -> None:
    for rank in range(2):
        assert found[rank][name]["state"] == found[rank]["alone"]
    assert found[1][name]["probes"] >= 4
    assert found[1][name]["found"] == []
    assert found[1][name]["left out"] == ("how much of the gradients clipping leaves (R23)",)


@pytest.mark.slow
def test_a_model_that_communicates_is_not_called_again_by_one_process(found: Any) -> None:
    for rank in range(2):
        assert found[rank]["gathers"]["state"] == found[rank]["gathers alone"]
    assert found[1]["gathers"]["probes"] == 0


@pytest.mark.slow
def test_gradients_that_are_averaged_are_not_taken_for_clipped(found: Any) -> None:
    assert found[0]["plain"]["norms"] == found[1]["plain"]["norms"]
    assert set(found[0]["plain"]["shrunk"]) == {None}


@pytest.mark.slow
def test_only_rank_0_prints(found: Any) -> None:
    assert [code for code, _ in found[1]["softmax"]["found"]][:1] == ["R35"]
    assert "R35" in found[0]["softmax"]["said"]
    assert found[1]["softmax"]["said"] == ""


@pytest.mark.slow
def test_every_rank_has_a_journal_of_its_own(found: Any) -> None:
    from stepwell.doctor.journal import read

    folder: Path = found["folder"]
    assert sorted(one.name for one in folder.iterdir()) == ["run.jsonl", "run.jsonl.rank1"]
    runs = [read(one) for one in sorted(folder.iterdir())]
    assert [(run.starts, list(run.step), run.ended) for run in runs] == [(1, list(range(1, STEPS + 1)), True)] * 2
    assert runs[0].loss != runs[1].loss


@pytest.mark.slow
def test_a_writer_that_is_named_is_opened_by_rank_0_alone_and_one_that_is_given_is_used(found: Any) -> None:
    assert found[0]["lines"] == found[1]["lines"] == list(range(1, STEPS + 1))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nan", "sharded nan"])
def test_an_input_of_rank_1_that_is_not_finite(found: Any, name: str) -> None:
    assert [code for code, _ in found[1][name]["found"]][:1] == ["R13"], found[1][name]["found"]
    assert found[0][name]["found"], "rank 0 gets the gradients of rank 1"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["no zero_grad", "sharded no zero_grad"])
def test_gradients_that_nobody_resets(found: Any, name: str) -> None:
    for rank in range(2):
        assert found[rank][name]["found"][0][0] == "R01"


@pytest.mark.slow
def test_the_same_order_in_each_epoch_is_found_in_both_processes(found: Any) -> None:
    for rank in range(2):
        assert found[rank]["same order"][:1] == ["R07"]
        assert "R07" not in found[rank]["set_epoch"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sharded", "sharded one"])
def test_fsdp2_with_and_without_doctors(found: Any, name: str) -> None:
    for rank in range(2):
        assert found[rank][name]["state"] == found[rank]["sharded alone"]
    assert found[1][name]["found"] == []
    assert found[1][name]["probes"] == 0
    assert "probes of the loss along an update" in found[1][name]["left out"]
    assert len(found[1][name]["norms"]) >= 20


@pytest.mark.slow
def test_each_process_measures_its_own_shard(found: Any) -> None:
    ours, theirs = found[0]["sharded"], found[1]["sharded"]
    assert all(value is not None and value > 0 for sample in (*ours["grad"], *theirs["grad"]) for value in sample)
    assert all(value is not None and value > 0 for sample in ours["update"][1:] for value in sample)
    assert ours["norms"] != theirs["norms"]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["compile", "method", "later"])
def test_compiled_models(way: str) -> None:
    ends = []
    for watched in (False, True):
        torch._dynamo.reset()
        torch.manual_seed(3)
        model: Any = Net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        early = Doctor(model, optimizer, live=False) if watched and way == "later" else None
        called = model
        if way == "method":
            model.compile(backend="eager", fullgraph=True)
        else:
            called = torch.compile(model, backend="eager", fullgraph=True)
        doctor = early or (Doctor(called, optimizer, live=False) if watched else None)
        for step in range(STEPS):
            optimizer.zero_grad()
            x, y = batch(step, 0)
            loss = F.cross_entropy(called(x), y)
            if doctor is not None:
                doctor.loss(loss)
            loss.backward()
            optimizer.step()
        if doctor is not None:
            assert hooks_of(model) > 0
            doctor.close()
            assert hooks_of(model) == 0
            assert doctor.findings == []
            assert doctor.record.probes == []
            if way == "compile":
                assert doctor.record.left_out == ("probes of the loss along an update",)
        ends.append(state(model))
    assert ends[0] == ends[1]
