"""What is spread over processes: DDP, FSDP2, distributed checkpoints, ZeRO, and how processes are started.

Two processes (gloo) do all checks of all subjects, one after another; each is compared with one process that saw the
whole batch.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import socket
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from compatibility.subjects import (
    NONE,
    STEPS,
    SUBJECTS,
    Failed,
    Subject,
    batch,
    expect,
    expect_close,
    flat,
    network,
    outcome,
    plain,
    start,
    step,
    train,
)
from stepwell.optimizers import find

PATIENCE = 600  # seconds until processes that hang are ended


def halves(optimizer: Any, model: nn.Module, dtype: torch.dtype, begin: int = 0, end: int = STEPS) -> None:
    """Train on this rank's half of each batch."""
    rank = dist.get_rank()
    for number in range(begin, end):
        x, y = batch(number, dtype)
        step(optimizer, model, x[rank::2], y[rank::2])


def alike(weights: Tensor) -> None:
    """Every rank has the same weights."""
    both = [torch.empty_like(weights) for _ in range(2)]
    dist.all_gather(both, weights)
    expect(both[1], both[0], "the ranks")


def ddp(subject: Subject) -> None:
    model, optimizer = start(subject)
    halves(optimizer, DistributedDataParallel(model), subject.dtype)
    alike(flat(model))
    expect_close(flat(model), plain(subject), subject.close, "beside one process")


def _sharded(subject: Subject) -> tuple[nn.Module, Any]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model, mesh = network(subject.dtype), init_device_mesh("cpu", (2,))
    for layer in (model[0], model[2], model):
        fully_shard(layer, mesh=mesh)
    return model, subject.make(model)


def fsdp2(subject: Subject) -> None:
    model, optimizer = _sharded(subject)
    halves(optimizer, model, subject.dtype)
    expect_close(flat(model), plain(subject), subject.close, "beside one process")


def _through_dcp(make: Callable[[Subject], tuple[nn.Module, Any]], subject: Subject) -> None:
    """Save in the middle of a run, load into new objects, go on: as the run that went on."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    model, optimizer = make(subject)
    halves(optimizer, model, subject.dtype, 0, 3)
    folder = [tempfile.mkdtemp()]
    dist.broadcast_object_list(folder)
    weights, state = get_state_dict(model, optimizer)
    dcp.save({"model": weights, "optimizer": state}, checkpoint_id=folder[0])
    halves(optimizer, model, subject.dtype, 3)
    other, again = make(subject)
    weights, state = get_state_dict(other, again)
    content = {"model": weights, "optimizer": state}
    dcp.load(content, checkpoint_id=folder[0])
    set_state_dict(other, again, model_state_dict=content["model"], optim_state_dict=content["optimizer"])
    halves(again, other, subject.dtype, 3)
    expect(flat(other), flat(model), "after loading")


def dcp_whole(subject: Subject) -> None:
    def make(subject: Subject) -> tuple[nn.Module, Any]:
        model, optimizer = start(subject)
        return DistributedDataParallel(model), optimizer

    _through_dcp(make, subject)


def dcp_sharded(subject: Subject) -> None:
    _through_dcp(_sharded, subject)


def zero(subject: Subject) -> str | None:
    """`ZeroRedundancyOptimizer` takes a class and its options; a wrapper has neither."""
    from torch.distributed.optim import ZeroRedundancyOptimizer

    if subject.around is not None:
        return NONE
    model = network(subject.dtype)
    optimizer = ZeroRedundancyOptimizer(model.parameters(), find(subject.name), **subject.options)
    halves(optimizer, DistributedDataParallel(model), subject.dtype)
    alike(flat(model))
    expect_close(flat(model), plain(subject), subject.close, "beside one process")
    return None


SPREAD: dict[str, Callable[[Subject], str | None]] = {
    "`DistributedDataParallel`": ddp,
    "FSDP2 (`fully_shard`)": fsdp2,
    "distributed checkpoint, DDP": dcp_whole,
    "distributed checkpoint, FSDP2": dcp_sharded,
    "`ZeroRedundancyOptimizer`": zero,
}


def _of_rank(rank: int, port: int, queue: Any, labels: list[str]) -> None:
    torch.set_num_threads(1)
    store = dist.TCPStore("localhost", port, 2, rank == 0)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    found = {}
    for name, check in SPREAD.items():
        for subject in (one for one in SUBJECTS if one.label in labels):
            mine = outcome(check, subject)
            both: list[Any] = [None, None]
            dist.all_gather_object(both, mine)  # a check that raises on one rank alone hangs here, and is ended
            found[name, subject.label] = next((one for one in both if one != "works"), "works")
    if rank == 0:
        queue.put(found)
    dist.barrier()
    dist.destroy_process_group()


def spread(subjects: tuple[Subject, ...] = SUBJECTS) -> dict[tuple[str, str], str]:
    """What two processes found: (check, subject) -> outcome."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    labels = [subject.label for subject in subjects]
    with _workers("spawn", _of_rank, [(rank, port) for rank in range(2)], labels) as queue:
        return queue.get(timeout=PATIENCE)


@contextlib.contextmanager
def _workers(method: str, function: Callable[..., None], each: list[tuple[Any, ...]], *common: Any) -> Iterator[Any]:
    context: Any = multiprocessing.get_context(method)
    queue = context.Queue()
    workers = [context.Process(target=function, args=(*own, queue, *common)) for own in each]
    for worker in workers:
        worker.start()
    try:
        yield queue
    finally:
        for worker in workers:
            worker.join(30)
            if worker.is_alive():
                worker.kill()


def _go_on(queue: Any, model: nn.Module, optimizer: Any) -> None:
    torch.set_num_threads(1)
    train(optimizer, model, 3)
    queue.put(flat(model).tolist())


def _in_a_process(method: str, subject: Subject) -> None:
    """A run that goes on in another process, which gets network and optimizer as they are."""
    model, optimizer = start(subject)
    train(optimizer, model, 0, 3)
    context: Any = multiprocessing.get_context(method)
    queue = context.Queue()
    worker = context.Process(target=_go_on, args=(queue, model, optimizer))
    worker.start()
    try:
        found = torch.tensor(queue.get(timeout=120))
    finally:
        worker.join(10)
        worker.kill()
    expect(found, plain(subject), "in the process")
    train(optimizer, model, 3)
    if method == "fork":
        expect(flat(model), plain(subject), "in the parent")


def spawned(subject: Subject) -> None:
    _in_a_process("spawn", subject)


def forked(subject: Subject) -> None:
    if "fork" not in multiprocessing.get_all_start_methods():
        raise Failed("there is no fork here")
    _in_a_process("fork", subject)


STARTED = {"a spawned process": spawned, "a forked process": forked}
