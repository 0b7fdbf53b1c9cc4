"""Cases for several processes: one checkpoint of a sharded run, saved by all ranks and loaded by any number of them."""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

import stepwell as sw
from stepwell.optimizers import find

FORMATS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16": {"state": "bf16"},
    "int8": {"state": "int8"},
    "int4": {"state": "int4"},
    "split": {"weights": "split"},
}
# Of these, whole matrices have owners: for each case the class and its options.
MATRICES: dict[str, tuple[str, dict[str, Any]]] = {
    "Muon": ("Muon", {}),
    "Muon int8": ("Muon", {"state": "int8"}),
    "Muon int4": ("Muon", {"state": "int4", "momentum": 0.8}),
    "SOAP split": ("SOAP", {"weights": "split", "precondition_frequency": 2}),
    "SOAP bf16": ("SOAP", {"state": "bf16", "max_precond_dim": 100}),  # one side of the first layer has no eigenbasis
    "Shampoo": ("Shampoo", {"momentum": 0.9, "grafting": "adam"}),
    "Adafactor": ("Adafactor", {"variant": "shazeer"}),
    "Adafactor int8": ("Adafactor", {"beta1": 0.9, "state": "int8"}),  # the average is cut like its parameter
}


def model(format_: str = "fp32", outputs: int = 3) -> nn.Module:
    """The last layer has fewer rows than there are processes at the most; the others are divided unevenly, and their
    rows end inside a block of codes."""
    torch.manual_seed(0)
    layers = [nn.Linear(64, 131), nn.Tanh(), nn.Dropout(0.3), nn.Linear(131, outputs)]
    if format_ in MATRICES:
        layers[3:3] = [nn.Linear(131, 64), nn.Tanh(), nn.Linear(64, 131)]
    network = nn.Sequential(*layers)
    return network.bfloat16() if "split" in format_ else network


def make(format_: str = "fp32", outputs: int = 3) -> tuple[nn.Module, sw.Step]:
    network = model(format_, outputs)
    if dist.is_initialized():
        fully_shard(network)
    name, options = MATRICES.get(format_) or ("AdamW", FORMATS[format_])
    optimizer = find(name)(network if name == "Muon" else network.named_parameters(), lr=0.05, **options)
    return network, sw.Step(
        optimizer, sw.schedules.warmup(2).then(sw.schedules.constant()), model=network, clip_norm=0.5, ema=0.9
    )


def train(network: nn.Module, step: sw.Step, begin: int, end: int) -> None:
    rank = dist.get_rank() if dist.is_initialized() else 0
    for number in range(begin, end):
        x = torch.randn(4, 64, generator=torch.Generator().manual_seed(100 * number + rank))
        step(network(x.to(next(network.parameters()).dtype)).square().mean())


def full(tensor: Tensor) -> Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def bits(name: str, tensor: Tensor) -> Tensor:
    """Low bits in one type: they travel as int32."""
    return tensor.to(torch.int32) if name == "low_bits" else tensor


def held(network: nn.Module, step: sw.Step) -> dict[str, Any]:
    """Everything that the run consists of, whole."""
    state = step.optimizer.state_dict()["state"]
    found = {f"weight {name}": full(tensor) for name, tensor in network.state_dict().items()}
    for index, slots in state.items():
        found |= {f"slot {index} {name}": bits(name, full(value)) for name, value in slots.items()}
    assert step.average is not None
    found |= {f"average {index}": full(value) for index, value in enumerate(step.average.averages)}
    return {**found, "number": step.number, "lr": step.optimizer.param_groups[0]["lr"]}


def updated(network: nn.Module, step: sw.Step) -> list[Tensor]:
    """The weights after three updates with given gradients, which do not depend on the number of processes."""
    assert isinstance(step.optimizer, sw.Optimizer)
    for number in range(3):
        generator = torch.Generator().manual_seed(1000 + number)
        for parameter in network.parameters():
            gradient = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
            if isinstance(parameter, DTensor):
                gradient = distribute_tensor(gradient, parameter.device_mesh, parameter.placements)
            parameter.grad = gradient
        step.optimizer.update()  # not step(), which the Step would report as a call outside
    return [full(parameter) for parameter in network.parameters()]


def folder() -> Path:
    return Path(os.environ["STEPWELL_TEST_FOLDER"])


# Saving in two processes


def save(format_: str) -> Any:
    """A run that is saved four times, and how it continues."""
    network, step = make(format_)
    torch.manual_seed(50 + (dist.get_rank() if dist.is_initialized() else 0))
    for number in range(4):
        train(network, step, number, number + 1)
        step.save(folder() / format_ / "run", keep=3, extra={"epoch": number})
    now = held(network, step)
    train(network, step, 4, 6)
    return now, [full(p) for p in network.parameters()], updated(network, step)


def save_short_rows() -> Any:
    """Codes in blocks that cross the rows."""
    torch.manual_seed(0)
    network = nn.Linear(60, 131)
    if dist.is_initialized():
        fully_shard(network)
    step = sw.Step(sw.AdamW(network.named_parameters(), state="int8"), model=network)
    path = folder() / "rows"
    if not path.exists():
        step(network(torch.ones(2, 60)).square().mean())
        return str(step.save(path))
    step.load(path)
    return step.number


def save_short_rows_of_one_process() -> None:
    network = nn.Linear(60, 131)
    step = sw.Step(sw.AdamW(network.named_parameters(), state="int8"), model=network)
    step(network(torch.ones(2, 60)).square().mean())
    step.save(folder() / "short rows.pt")


def load_short_rows() -> Any:
    """The codes of one process, of which no process can take its part."""
    network = nn.Linear(60, 131)
    fully_shard(network)
    sw.Step(sw.AdamW(network.named_parameters(), state="int8"), model=network).load(folder() / "short rows.pt")


def save_in_rank_0_alone() -> Any:
    from stepwell.engine import together

    network, step = make()
    train(network, step, 0, 1)
    together.PATIENCE = 1.0
    try:
        if dist.get_rank() == 0:
            step.save(folder() / "alone")
    finally:
        together.PATIENCE = 120.0
        dist.barrier()


def save_over_a_file() -> Any:
    network, step = make()
    train(network, step, 0, 1)
    path = folder() / "mine.txt"
    if dist.get_rank() == 0:
        path.write_text("mine")
    dist.barrier()
    step.save(path)


def onto_a_full_disk() -> Any:
    """The second process cannot write: its own file, or the tensors. The checkpoint before stays, and a later save is
    as ever."""
    network, step = make()
    train(network, step, 0, 1)
    path = folder() / "full"
    step.save(path, extra=1)
    train(network, step, 1, 2)
    said = []
    for module, name in ((torch, "save"), (os, "fsync")):
        plain, calls = getattr(module, name), [0]

        def full_disk(*args: Any, plain: Any = plain, calls: list[int] = calls, name: str = name, **more: Any) -> Any:
            calls[0] += 1
            if dist.get_rank() == 1 and calls[0] >= (1 if name == "save" else 2):
                raise OSError(errno.ENOSPC, "No space left on device")
            return plain(*args, **more)

        setattr(module, name, full_disk)
        try:
            step.save(path, extra=2)
        except (sw.UsageError, OSError) as error:
            said.append(f"{type(error).__name__}: {error}")
        finally:
            setattr(module, name, plain)
    _, other = make()
    kept = other.load(path), other.number
    step.save(path, extra=2)
    _, other = make()
    return said, kept, (other.load(path), other.number), sorted(one.name for one in path.parent.glob("*full*"))


def through_dcp() -> Any:
    """A Step in the hands of torch.distributed.checkpoint, loaded into a run that has made no update."""
    import torch.distributed.checkpoint as dcp

    network, step = make()
    torch.manual_seed(50 + dist.get_rank())
    train(network, step, 0, 3)
    path = folder() / "dcp"
    dcp.save({"step": step, "model": network.state_dict()}, checkpoint_id=path)
    train(network, step, 3, 5)
    again, another = make()
    weights = again.state_dict()
    dcp.load({"step": another, "model": weights}, checkpoint_id=path)
    again.load_state_dict(weights)
    number = another.number
    train(again, another, 3, 5)
    ends = [full(p) for p in network.parameters()], [full(p) for p in again.parameters()]
    empty = another.state_dict()
    empty["optimizer"] = {**empty["optimizer"], "state": {}}
    try:
        another.load_state_dict(empty)
    except sw.UsageError as error:
        return number, ends, str(error)
    return number, ends, ""


def load_a_file(format_: str) -> Any:
    """A checkpoint file of one process, in a sharded run."""
    network, step = make(format_)
    step.load(folder() / f"{format_}.pt")
    return held(network, step), updated(network, step)


# Loading in any number


def load(format_: str) -> Any:
    network, step = make(format_)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        extra = step.load(folder() / format_ / "run")
    found = held(network, step)
    drawn = torch.rand(3).tolist()
    texts = [str(one.message) for one in said if "random state" in str(one.message)]
    return found, extra, updated(network, step), texts, drawn


def resume(format_: str) -> Any:
    """The same number of processes: with the generators of each."""
    network, step = make(format_)
    step.load(folder() / format_ / "run")
    train(network, step, 4, 6)
    return [full(p) for p in network.parameters()]


SAVING: dict[str, Callable[[], Any]] = {
    **{f"save {name}": partial(save, name) for name in (*FORMATS, *MATRICES)},
    "rows": save_short_rows,
    **{f"resume {name}": partial(resume, name) for name in (*FORMATS, *MATRICES)},
    **{f"load {name}": partial(load, name) for name in (*FORMATS, *MATRICES)},
    "short rows": load_short_rows,
    "alone": save_in_rank_0_alone,
    "over a file": save_over_a_file,
    "full disk": onto_a_full_disk,
    "dcp": through_dcp,
    **{f"file {name}": partial(load_a_file, name) for name in (*FORMATS, *MATRICES)},
}
LOADING: dict[str, Callable[[], Any]] = {
    **{f"load {name}": partial(load, name) for name in (*FORMATS, *MATRICES)},
    "rows": save_short_rows,
}
