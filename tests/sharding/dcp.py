"""Cases for torch.distributed.checkpoint: the state of every optimizer in every format, saved by one number of
processes and loaded by another, in four ways.

    python -m tests.sharding.dcp          all optimizers and formats; the tests take a sample
"""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from stepwell.optimizers import TABLE, create, find
from tests.processes import in_processes
from tests.sharding.checkpoints import FORMATS, bits, full

WAYS = ("nested", "flat", "whole", "async")
# Of other optimizers and formats, those that have something of their own: sums, numbers, matrices, codes, modes.
SAMPLE = [
    ("AdamW", "fp32"), ("AdamW", "int8"), ("AdamW", "int4"), ("AdamW", "split"), ("NAdam", "bf16"),
    ("Prodigy", "fp32"), ("ScheduleFreeAdamW", "int8"), ("LAMB", "bf16"), ("Muon", "int8"), ("SOAP", "int4"),
    ("Shampoo", "bf16"), ("Adafactor", "fp32"),
]  # fmt: skip


def everything() -> list[tuple[str, str]]:
    """All optimizers that train under FSDP2, with all formats that they have."""
    found = []
    for name in TABLE:
        cls = find(name)
        if not hasattr(cls, "signatures") or cls.takes_estimates or getattr(cls, "needs_closure", False):
            continue
        own = cls.__name__ in ("AdamW8bit", "AdamW4bit", "SparseAdam")  # their state has one format
        found += [(cls.__name__, format_) for format_ in FORMATS if not (own and format_ not in ("fp32", "split"))]
    return found


def model(format_: str) -> nn.Module:
    """Rows that are divided unevenly and end inside a block of codes, and a layer with fewer rows than processes."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(70, 131), nn.Linear(131, 64), nn.Linear(64, 3))
    if format_ == "split":
        network = network.bfloat16()
    if dist.is_initialized():
        fully_shard(network)
    return network


def made(name: str, format_: str) -> tuple[nn.Module, Any]:
    network = model(format_)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        more = {"momentum": 0.9} if name == "SGD" else {}  # without state torch's broadcast raises AssertionError
        return network, create(name, network, **FORMATS[format_], **more)


def updated(network: nn.Module, optimizer: Any, begin: int, end: int) -> list[Tensor]:
    """The weights after updates with given gradients, which do not depend on the number of processes."""
    for number in range(begin, end):
        generator = torch.Generator().manual_seed(1000 + number)
        for parameter in network.parameters():
            gradient = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
            if isinstance(parameter, DTensor):
                gradient = distribute_tensor(gradient, parameter.device_mesh, parameter.placements)
            parameter.grad = gradient
        optimizer.step()
    return [full(parameter) for parameter in network.parameters()]


def state(network: nn.Module, optimizer: Any, way: str) -> Any:
    options = StateDictOptions(full_state_dict=way == "whole", flatten_optimizer_state_dict=way == "flat")
    return get_optimizer_state_dict(network, optimizer, options=options)


def slots(network: nn.Module, optimizer: Any) -> dict[str, Tensor]:
    found = state(network, optimizer, "nested")["state"]
    return {f"{p} {key}": bits(key, full(one)) for p, entries in found.items() for key, one in entries.items()}


def place(name: str, format_: str) -> Path:
    return Path(os.environ["STEPWELL_TEST_FOLDER"]) / f"{name} {format_}"


def save(name: str, format_: str) -> Any:
    """A state in all ways, with what it contains and three more updates."""
    network, optimizer = made(name, format_)
    updated(network, optimizer, 0, 2)
    weights = [full(p) for p in network.parameters()]
    now = slots(network, optimizer)
    folder = place(name, format_)
    for way in ("nested", "flat"):
        dcp.save(state(network, optimizer, way), checkpoint_id=folder / way)
    whole = state(network, optimizer, "whole")
    if not dist.is_initialized() or dist.get_rank() == 0:
        torch.save(whole, folder / "whole.pt")
    saving: Any = None
    if dist.is_initialized():  # with a group of its own: training goes on in the other one
        snapshot = state(network, optimizer, "nested")
        saving = dcp.async_save(snapshot, checkpoint_id=folder / "async", process_group=_group())
    later = updated(network, optimizer, 2, 5)  # while it saves
    if saving is not None:
        saving.result()
    return weights, now, later


@cache
def _group() -> Any:
    return dist.new_group(backend="gloo")


def load(name: str, format_: str, ways: Sequence[str] = WAYS) -> Any:
    """What a fresh run has of the state after loading in each way, and its weights three updates later."""
    saved, _, _ = torch.load(place(name, format_) / "saved.pt")
    found = {}
    for way in ways:
        network, optimizer = made(name, format_)
        with torch.no_grad():
            for parameter, weight in zip(network.parameters(), saved, strict=True):
                whole: Any = weight
                if isinstance(parameter, DTensor):
                    whole = distribute_tensor(weight, parameter.device_mesh, parameter.placements)
                parameter.copy_(whole)
        if way == "whole":
            several = dist.is_initialized()
            first = not several or dist.get_rank() == 0
            given = torch.load(place(name, format_) / "whole.pt") if first else {}
            options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=several)
        else:
            given = state(network, optimizer, "flat" if way == "flat" else "nested")
            dcp.load(given, checkpoint_id=place(name, format_) / way)
            options = StateDictOptions(flatten_optimizer_state_dict=way == "flat")
        set_optimizer_state_dict(network, optimizer, given, options=options)
        found[way] = slots(network, optimizer), updated(network, optimizer, 2, 5)
    return found


def quietly(act: Callable[[], Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return act()


def cases(act: Callable[..., Any], pairs: Sequence[tuple[str, str]], **more: Any) -> dict[str, Callable[[], Any]]:
    return {f"{name}, {format_}": partial(quietly, partial(act, name, format_, **more)) for name, format_ in pairs}


def tried(pairs: Sequence[tuple[str, str]], begin: int, ends: Sequence[int]) -> dict[str, str]:
    """What went wrong when `begin` processes saved and each of `ends` loaded, by case."""
    wrong: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["STEPWELL_TEST_FOLDER"] = folder
        saved = _in(cases(save, pairs), begin)
        for case, answer in saved[0].items():
            if isinstance(answer, str):
                wrong[f"{case}: saved by {begin}"] = answer
            else:
                name, format_ = case.split(", ")
                torch.save(answer, place(name, format_) / "saved.pt")
        good = [(name, format_) for name, format_ in pairs if not isinstance(saved[0][f"{name}, {format_}"], str)]
        for end in ends:
            acts: dict[str, Callable[[], Any]] = {}
            for pair in good:
                ways = WAYS
                if begin == 1:  # gloo broadcasts no int16, as one process has low bits
                    ways = WAYS[:2] if pair[1] == "split" else WAYS[:3]
                acts |= cases(load, [pair], ways=ways)
            found = _in(acts, end)
            for name, format_ in good:
                _, slots_then, later = saved[0][f"{name}, {format_}"]
                for rank in found:
                    answer = found[rank][f"{name}, {format_}"]
                    title = f"{name}, {format_}: {begin} -> {end}"
                    if isinstance(answer, str):
                        wrong[title] = answer
                        continue
                    for way, (slots_now, weights) in answer.items():
                        if slots_now.keys() != slots_then.keys():
                            wrong[f"{title}, {way}"] = f"slots {sorted(slots_now.keys() ^ slots_then.keys())[:3]}"
                        elif different := [k for k in slots_then if not torch.equal(slots_now[k], slots_then[k])]:
                            wrong[f"{title}, {way}"] = f"slots differ: {different[:3]}"
                        elif not all(map(torch.equal, weights, later)):
                            wrong[f"{title}, {way}"] = "the next updates differ"
    return wrong


def _in(acts: dict[str, Callable[[], Any]], count: int) -> Any:
    if count > 1:
        return in_processes(acts, count, timeout=2000)
    found: dict[str, Any] = {}
    for name, act in acts.items():
        try:
            found[name] = act()
        except Exception as error:  # of any kind: it is the answer
            found[name] = f"{type(error).__name__}: {error}"
    return {0: found}


if __name__ == "__main__":
    torch.set_num_threads(1)
    pairs = [pair for pair in everything() if not sys.argv[1:] or pair[0] in sys.argv[1:]]
    for begin, ends in ((2, (2, 4, 1)), (4, (2,)), (1, (2,))):
        wrong = tried(pairs, begin, ends)
        print(f"{begin} -> {', '.join(map(str, ends))}: {len(pairs)} states, {len(wrong)} wrong")
        for title, what in wrong.items():
            print("   ", title, what.splitlines()[0][:150])
