"""A sweep in several processes: they stop together, fail together, and read one curve, the mean of their losses.

Otherwise each process would suggest another rate, and a process whose loss diverged would leave the sweep while the
others wait indefinitely for its gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import nn

from stepwell.arguments import flag
from stepwell.errors import UsageError

T = TypeVar("T")

WAIT = 30  # seconds that processes with a plain model wait for one another; they start within a few
_met = 0  # how often this process has met the others; the same in all of them


class Together:
    """The processes that sweep together. Without groups there is only this process, and no communication.

    Args:
        groups: process groups over which the processes agree.
    """

    def __init__(self, groups: Sequence[Any] = ()) -> None:
        self.groups = list(groups)
        self.lead = not self.groups or torch.distributed.get_rank() == 0

    def all_or_none(self, work: Callable[[], T]) -> T:
        """The result of `work`, after it succeeded in every process. If it raises in one process, all processes
        raise."""
        return self._settled(work, lambda result: 0.0)[0]

    def mean(self, work: Callable[[], float]) -> float:
        """The mean over the processes of the number that `work` returns; bitwise equal in all processes."""
        return self._settled(work, float)[1]

    def check_same(self, settings: dict[str, float]) -> None:
        """Raise UsageError in every process if the settings differ between processes."""
        for group in self.groups:
            values = torch.tensor(list(settings.values()), dtype=torch.float64, device=_device(group))
            for other in _gathered(values, group):
                for name, mine, theirs in zip(settings, values.tolist(), other.tolist(), strict=True):
                    if mine != theirs:
                        raise UsageError(
                            f"find_lr: the processes were called with different settings: {name} is {mine:g} here and "
                            f"{theirs:g} in another; call find_lr with equal settings in all processes"
                        )

    def _settled(self, work: Callable[[], T], number: Callable[[T], float]) -> tuple[T, float]:
        if not self.groups:
            result = work()
            return result, number(result)
        value, failure = 0.0, None
        try:
            result = work()
            value = number(result)
        except BaseException as error:  # Ctrl-C as well: the others must not wait for this process
            failure = error
        failed = failure is not None
        for group in self.groups:
            told = torch.tensor([float(failed), value], dtype=torch.float64, device=_device(group))
            # Gathered and added in the order of the ranks: a reduction may add in another order on each of them, and
            # a difference in the last bit would let one stop and the other go on.
            answers = torch.stack(_gathered(told, group)).cpu()
            failed, value = bool(answers[:, 0].any()), float(answers[:, 1].mean())
        if failure is not None:
            raise failure
        if failed:
            raise UsageError("find_lr: stopped, because another process stopped; see the message of that process")
        return result, value


def _gathered(values: torch.Tensor, group: Any) -> list[torch.Tensor]:
    into = [torch.empty_like(values) for _ in range(torch.distributed.get_world_size(group))]
    torch.distributed.all_gather(into, values, group=group)
    return into


def _device(group: Any) -> torch.device:
    backends = str(torch.distributed.get_backend(group))
    if "gloo" in backends or "mpi" in backends or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def together_with(models: Iterable[nn.Module], optimizer: Any, processes: Any) -> Together:
    """The processes to sweep with: those of the distributed models, or all processes if requested.

    Raises UsageError for plain models if another process does not call the finder.
    """
    wanted = None if processes is None else flag("find_lr", "processes", processes)
    if not torch.distributed.is_available() or not torch.distributed.is_initialized() or wanted is False:
        return Together()
    if torch.distributed.get_world_size() < 2:
        return Together()
    groups = list(_groups_of(models, optimizer))
    if wanted or not groups:
        if not wanted:
            _meet()
        groups.append(torch.distributed.group.WORLD)
    distinct = {id(group): group for group in groups if torch.distributed.get_world_size(group) > 1}
    return Together(list(distinct.values()))


def _groups_of(models: Iterable[nn.Module], optimizer: Any) -> Iterator[Any]:
    """The process groups of DistributedDataParallel, FSDP, FSDP2 (and other DTensors), SyncBatchNorm and ZeRO."""
    world = torch.distributed.group.WORLD
    owners = [part for model in models for part in model.modules()]
    for owner in [*owners, optimizer]:
        kinds = {kind.__name__ for kind in type(owner).__mro__ if kind.__module__.startswith("torch.")}
        if kinds & {"DistributedDataParallel", "FullyShardedDataParallel", "SyncBatchNorm", "ZeroRedundancyOptimizer"}:
            yield getattr(owner, "process_group", None) or world
    meshes = {
        id(mesh): mesh
        for group in optimizer.param_groups
        for tensor in group["params"]
        if (mesh := getattr(tensor, "device_mesh", None)) is not None
    }
    for mesh in meshes.values():
        for dimension in range(mesh.ndim):
            yield mesh.get_group(dimension)


def _meet() -> None:
    """Wait for all processes: a plain model does not tell whether the other processes call the finder.

    Raises UsageError if a process does not call the finder in time.
    """
    global _met
    store = torch.distributed.distributed_c10d._get_default_store()
    names = [f"stepwell/find_lr/{_met}/{other}" for other in range(torch.distributed.get_world_size())]
    mine = names[torch.distributed.get_rank()]
    store.set(mine, "here")
    for other, name in enumerate(names):
        try:
            store.wait([name], timedelta(seconds=WAIT))
        except Exception as error:  # of another class in each version of torch
            store.delete_key(mine)
            raise UsageError(
                f"find_lr: {len(names)} processes run, and process {other} has not called find_lr within {WAIT} s; "
                "call find_lr in all processes, for one answer from all their losses, or pass processes=False for "
                "an answer of this process only"
            ) from error
    _met += 1
