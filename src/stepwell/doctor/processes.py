"""A run of several processes: one of them speaks, and none starts a communication that the others do not expect."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from stepwell.engine.sharding import is_spread
from stepwell.step.ranks import beside, rank

_COMMUNICATION = ("c10d", "_c10d_functional", "_c10d_functional_autograd")  # namespaces of torch's collectives


class _Alone(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace in _COMMUNICATION:
            raise RuntimeError(f"{func}: the doctor runs a model again in this process only")
        return func(*args, **(kwargs or {}))


def alone() -> AbstractContextManager[Any]:
    """Within it a collective raises RuntimeError before anything is sent.

    How often a probe calls the model depends on the losses of this process. A collective in such a call would meet
    another collective of another process: both would wait, or get the numbers of the other.
    """
    return nullcontext() if rank() is None else _Alone()


def speaks() -> bool:
    """Whether this process prints: the only one, or rank 0 of the default group."""
    return not rank()


def own_path(path: str | Path | None) -> str | Path | None:
    """The journal of this process: rank 1 writes `run.jsonl.rank1`."""
    return beside(Path(path), number) if path is not None and (number := rank()) else path


def plain(module: nn.Module) -> nn.Module:
    """The model in a DistributedDataParallel, which sends buffers around in its forward pass; any other as it is."""
    return module.module if isinstance(module, nn.parallel.DistributedDataParallel) else module


def sharded(models: Sequence[nn.Module], tensors: Sequence[torch.Tensor]) -> frozenset[int]:
    """The numbers of the tensors that are spread over processes, as those of FSDP."""
    names = {type(module).__name__ for model in models for module in model.modules()}
    if "FullyShardedDataParallel" in names:  # whose tensors are parts of flat ones
        return frozenset(range(len(tensors)))
    return frozenset(number for number, tensor in enumerate(tensors) if is_spread(tensor))


def kind(module: nn.Module) -> str:
    """The class of a module. `fully_shard` puts FSDP in front of the name."""
    return type(module).__name__.removeprefix("FSDP")


def left_out(is_sharded: bool, is_compiled: bool) -> tuple[str, ...]:
    """What a doctor does not look at in such a run, by name."""
    found: tuple[str, ...] = ()
    if rank() is not None:  # the hooks of gradients see them before they are averaged over the processes
        found += ("how much of the gradients clipping leaves (R23)",)
    if is_sharded or is_compiled:
        found += ("probes of the loss along an update",)
    if is_sharded:
        found += (
            "which sharded parameters a loss depends on (R02, R03, R29)",
            "gradients that are cleared before the update (R27)",
            "accumulation of gradients (R06)",
            "the module in which a value is first not finite",
        )
    return found
