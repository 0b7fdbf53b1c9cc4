"""AdamW where people meet it: large tensors, small ones, inside a training loop, clipped, and in low precision."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import peers
import stepwell
import workloads
from catalogue import LR, Settings
from goals import Goal, most
from measure import Times, alternate, synchronize
from memory import state_bytes
from stepwell.engine.gradients import global_norm
from stepwell.step.clipping import ClipNorm
from table import Column, Table, decimals, milliseconds, ratio

FUSED, FOREACH = "torch fused", "torch foreach"
COLUMNS = (
    Column("name", "AdamW", left=True),
    Column("seconds", "ms", milliseconds),
    Column("of fused", "x torch fused", ratio),
)
FASTER_THAN_8BIT = 15  # times: what an 8-bit peer takes, over ours


def tables(settings: Settings) -> dict[str, Callable[[], Table]]:
    """The tables of this file by a short name, each measured when it is called."""
    return {
        "large": lambda: against_torch(workloads.large(settings.scale), settings, inner=1, goal=most(1.0)),
        "small": lambda: against_torch(workloads.small(settings.scale), settings, inner=10, goal=most(0.15)),
        "loop": lambda: in_a_loop(settings),
        "clipped": lambda: clipped(settings),
        "formats": lambda: formats(settings),
    }


def against_torch(workload: workloads.Workload, settings: Settings, inner: int, goal: Goal) -> Table:
    """The step alone, on gradients that stay the same."""
    params = workload.make(settings.device)
    actions = {
        "stepwell": stepwell.AdamW(params, lr=LR, backend=settings.backend).step,
        FUSED: torch.optim.AdamW(params, lr=LR, fused=True).step,
        FOREACH: torch.optim.AdamW(params, lr=LR, foreach=True).step,
    }
    times = alternate(actions, settings.device, settings.rounds, inner)
    return _table(f"AdamW fp32, {workload.name}", times, {"stepwell": goal})


def in_a_loop(settings: Settings) -> Table:
    """The step alone inside a training loop: 6 encoder layers of width 256, gradients set to None each time.

    One model per optimizer, trained in turn, so that each one's state and gradients are as cold as they would be.
    """
    width, layers = (256, 6) if settings.scale >= 1 else (32, 2)
    times = Times()
    loops = []
    for name, make in {
        "stepwell": lambda p: stepwell.AdamW(p, backend=settings.backend),
        FUSED: lambda p: torch.optim.AdamW(p, fused=True),
        FOREACH: lambda p: torch.optim.AdamW(p, foreach=True),
    }.items():
        torch.manual_seed(0)
        layer = torch.nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True)
        model = torch.nn.TransformerEncoder(layer, layers, enable_nested_tensor=False).to(settings.device)
        loops.append((times.rounds.setdefault(name, {}), model, make(list(model.parameters()))))
    batch = torch.randn(2, 64, width, device=settings.device)
    for turn in range(3 * settings.rounds + 2):
        shift = turn % len(loops)
        for seconds, model, optimizer in loops[shift:] + loops[:shift]:
            model(batch).square().mean().backward()
            synchronize(settings.device)
            start = time.perf_counter()
            optimizer.step()
            synchronize(settings.device)
            if turn >= 2:
                seconds[turn] = time.perf_counter() - start
            optimizer.zero_grad(set_to_none=True)
    title = f"AdamW fp32, the step inside a training loop ({layers} encoder layers of width {width})"
    return _table(title, times, {"stepwell": most(0.75)})


def clipped(settings: Settings) -> Table:
    """Norm, clipping and step: what `Step` does, against what a loop with torch does."""
    workload = workloads.large(settings.scale)
    params, theirs = workload.make(settings.device), workload.make(settings.device)
    fused = torch.optim.AdamW(theirs, lr=LR, fused=True)

    def torch_step() -> None:
        torch.nn.utils.clip_grad_norm_(theirs, 1.0, foreach=True)
        fused.step()

    unclipped = torch.optim.AdamW(params, lr=LR, fused=True)
    actions = {
        "stepwell": clipped_step(stepwell.AdamW(params, lr=LR, backend=settings.backend), params, 1.0),
        "clip_grad_norm_ (foreach), torch fused": torch_step,
        "torch fused, not clipped": unclipped.step,
    }
    times = alternate(actions, settings.device, settings.rounds)
    title = f"norm, clip and AdamW fp32, {workload.name}"
    return _table(title, times, {"stepwell": most(0.75)}, "clip_grad_norm_ (foreach), torch fused", "x torch clipped")


def clipped_step(optimizer: Any, params: list[Tensor], max_norm: float) -> Callable[[], None]:
    """Lines 4 to 6 of `stepwell.Step` with `clip_norm`: the norm, its flag, the factor, the update."""
    clip = ClipNorm(max_norm)
    fused_norm = getattr(optimizer, "gradient_norm", None)

    def step() -> None:
        norm = global_norm([p.grad for p in params if p.grad is not None]) if fused_norm is None else fused_norm()
        found_inf = (~torch.isfinite(norm)).float()
        factor, _ = clip.clip([], 1.0, norm)
        optimizer.update(factor, found_inf)

    return step


FORMATS = (
    *COLUMNS,
    Column("state bytes", "state B/param", decimals(2)),
    Column("bitsandbytes", "bitsandbytes takes x", decimals(1)),
    Column("torchao", "torchao takes x", decimals(1)),
)


def formats(settings: Settings) -> Table:
    """Every format of state and weights, all against torch's fused step in fp32; 8 and 4 bits against peers, too."""
    workload = workloads.large(settings.scale)
    params = workload.make(settings.device)
    optimizers: dict[str, Any] = {FUSED: torch.optim.AdamW(params, lr=LR, fused=True)}
    optimizers |= {
        f"state {state}": stepwell.AdamW(params, lr=LR, state=state, backend=settings.backend)
        for state in ("fp32", "bf16", "int8", "int4")
    }
    half = workload.make(settings.device, torch.bfloat16)
    optimizers |= {
        f"bf16 weights, {weights}": stepwell.AdamW(half, lr=LR, weights=weights, backend=settings.backend)
        for weights in ("native", "stochastic", "split")
    }
    optimizers["torch fused, bf16 weights and state"] = torch.optim.AdamW(half, lr=LR, fused=True)
    notes = []
    for state in ("int8", "int4"):
        for label, make in peers.peers("AdamW", {}, state, LR).items():
            optimizer = make(workload.make(settings.device))
            try:
                with peers.quiet():
                    optimizer.step()
                optimizers[f"{label} {state}"] = optimizer
            except Exception as error:  # whatever other people's code raises on this machine
                notes.append(f"{label} {state} does not run here ({type(error).__name__})")
    times = alternate({name: one.step for name, one in optimizers.items()}, settings.device, settings.rounds)
    table = _table(
        f"AdamW by format, {workload.name}",
        times,
        {
            "state bf16": most(0.85),
            "state int8": most(0.8),
            "state int4": most(1.2),
            "bf16 weights, split": most(1.0),
        },
    )
    table.columns, table.notes = FORMATS, notes
    for row, goals in zip(table.rows, table.goals, strict=True):
        row["state bytes"] = state_bytes(optimizers[row["name"]]) / workload.elements
        for package in ("bitsandbytes", "torchao"):
            peer = f"{package} {row['name'].removeprefix('state ')}"
            if row["name"].startswith("state ") and peer in times.rounds:
                row[package] = times.ratio(peer, row["name"])
                if row["name"] == "state int8":
                    goals[package] = Goal(FASTER_THAN_8BIT, "least", digits=1)
    return table


def _table(
    title: str, times: Times, goals: dict[str, Goal], against: str = FUSED, words: str = "x torch fused"
) -> Table:
    columns = (*COLUMNS[:2], Column("of fused", words, ratio))
    table = Table(title, columns)
    for name in times.rounds:
        row = {"name": name, "seconds": times.seconds(name), "of fused": times.ratio(name, against)}
        table.add(row, {"of fused": goals.get(name)})
    return table
