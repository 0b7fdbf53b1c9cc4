"""Several processes: one answer for all, from all their losses; and none waits for one that has stopped."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from stepwell import Step
from stepwell.errors import UsageError
from stepwell.finder import find_lr
from stepwell.finder import processes as sweep_processes
from stepwell.optimizers import SGD, AdamW
from tests.processes import in_two_processes

pytestmark = pytest.mark.slow  # two processes, each of which imports torch

Batch = tuple[Tensor, Tensor]


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def _data(rank: int) -> list[Batch]:
    """Other samples, and another scale of the losses, in each process."""
    generator = torch.Generator().manual_seed(10 + rank)
    x = [torch.randn(16, 4, generator=generator) * (1 + rank) for _ in range(12)]
    return [(batch, batch[:, :3].argmax(1)) for batch in x]


def _loss(model: nn.Module, batch: Batch) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def _flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def _read(found: Any) -> Any:
    return found.suggestion, found.curve.y, found.curve.x


def _spread(rank: int) -> Any:
    model = DistributedDataParallel(_model())
    return _read(find_lr(model, SGD(model.parameters()), _data(rank), _loss, iterations=60, orders=2))


def _of_a_step(rank: int) -> Any:
    model = DistributedDataParallel(_model())
    step = Step(AdamW(model.parameters()), accumulate=2, model=model)
    before = _flat(model)
    answer = _read(find_lr(model, step, _data(rank), _loss, iterations=30, orders=1))
    assert torch.equal(before, _flat(model))
    return answer


def _plain(rank: int) -> Any:
    model = _model()
    return _read(find_lr(model, SGD(model.parameters()), _data(rank), _loss, iterations=60, orders=2))


def _by_a_function(rank: int) -> Any:
    model = DistributedDataParallel(_model())
    optimizer = SGD(model.parameters())

    def train_step(batch: Batch) -> Tensor:
        optimizer.zero_grad()
        loss = _loss(model, batch)
        loss.backward()
        optimizer.step()
        return loss

    return _read(find_lr(model, optimizer, _data(rank), train_step=train_step, iterations=30, orders=1))


def _nan_in_one(rank: int) -> Any:
    model = DistributedDataParallel(_model())
    count = 0

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        nonlocal count
        count += 1
        return _loss(model, batch) * (float("nan") if rank == 1 and count == 12 else 1.0)

    found = find_lr(model, SGD(model.parameters()), _data(rank), loss, iterations=30, orders=1)
    return len(found.curve.x)


def _fails_in_one(rank: int) -> Any:
    model = DistributedDataParallel(_model())
    before = _flat(model)

    def batches(seed: int) -> Iterator[Batch]:
        for number, batch in enumerate(_data(rank)):
            if rank == 1 and number == 5:
                raise OSError("the disk is gone")
            yield batch

    try:
        find_lr(model, SGD(model.parameters()), batches, _loss, iterations=30, orders=1)
    except (OSError, UsageError) as error:
        assert torch.equal(before, _flat(model))
        return f"{type(error).__name__}: {error}"


def _refused_in_one(rank: int) -> Any:
    model = DistributedDataParallel(_model())
    with pytest.raises(UsageError) as caught:
        find_lr(model, SGD(model.parameters()), _data(rank) if rank == 0 else [], _loss)
    return str(caught.value)


def _other_settings(rank: int) -> Any:
    model = DistributedDataParallel(_model())
    with pytest.raises(UsageError) as caught:
        find_lr(model, SGD(model.parameters()), _data(rank), _loss, iterations=30 + rank, orders=1)
    return str(caught.value)


def _one_alone(rank: int) -> Any:
    if rank == 1:
        return ""
    sweep_processes.WAIT = 1
    model = _model()
    with pytest.raises(UsageError) as caught:
        find_lr(model, SGD(model.parameters()), _data(rank), _loss)
    assert find_lr(model, SGD(model.parameters()), _data(rank), _loss, processes=False).curve.x
    return str(caught.value)


CASES: dict[str, Callable[[int], Any]] = {
    "spread": _spread, "step": _of_a_step, "plain": _plain, "train_step": _by_a_function, "nan": _nan_in_one,
    "fails": _fails_in_one, "refused": _refused_in_one, "settings": _other_settings, "alone": _one_alone,
}  # fmt: skip


def _worker(rank: int, port: int, queue: Any) -> None:
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    said: dict[str, Any] = {}
    for name, case in CASES.items():
        try:
            said[name] = case(rank)
        except Exception as error:
            said[name] = f"{type(error).__name__}: {error}"
        torch.distributed.barrier()
    queue.put((rank, said))
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def answers() -> list[dict[str, Any]]:
    found = dict(in_two_processes(_worker))
    return [found[0], found[1]]


@pytest.mark.parametrize("case", ["spread", "step", "plain", "train_step"])
def test_all_processes_get_one_answer(case: str, answers: list[dict[str, Any]]) -> None:
    one, other = (answer[case] for answer in answers)
    assert one == other  # to the last bit: the curve is the same
    assert len(one[1]) > 6, one
    if case in ("spread", "plain"):
        assert one[0] is not None


def test_the_answer_is_from_the_losses_of_all(answers: list[dict[str, Any]]) -> None:
    curves = [_read(find_lr((model := _model()), SGD(model.parameters()), _data(rank), _loss, iterations=60, orders=2))
              for rank in range(2)]  # fmt: skip
    first = [curve[1][0] for curve in curves]
    assert answers[0]["spread"][1][0] == pytest.approx(sum(first) / 2, rel=0.02)
    assert first[0] != pytest.approx(first[1], rel=0.05)


def test_a_loss_that_is_not_finite_in_one_stops_all(answers: list[dict[str, Any]]) -> None:
    assert [answer["nan"] for answer in answers] == [11, 11]


def test_an_exception_in_one_stops_all(answers: list[dict[str, Any]]) -> None:
    assert answers[1]["fails"] == "OSError: the disk is gone"
    assert answers[0]["fails"].startswith("UsageError: find_lr: stopped, because another process stopped")


def test_an_argument_that_is_refused_in_one_is_refused_in_all(answers: list[dict[str, Any]]) -> None:
    assert "the loader has 0 batches" in answers[1]["refused"]
    assert "stopped, because another process stopped" in answers[0]["refused"]


def test_other_settings_are_refused_in_all(answers: list[dict[str, Any]]) -> None:
    assert "iterations is 30 here and 31 in another" in answers[0]["settings"]
    assert "iterations is 31 here and 30 in another" in answers[1]["settings"]


def test_a_plain_model_in_one_process_waits_and_says_so(answers: list[dict[str, Any]]) -> None:
    assert "process 1 has not called find_lr within 1 s" in answers[0]["alone"]
    assert "processes=False" in answers[0]["alone"]
