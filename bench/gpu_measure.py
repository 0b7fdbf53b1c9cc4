"""What a visit's worker measures: one row after another (see `gpu_plan.py`)."""

from __future__ import annotations

import gc
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch

import peers
import workloads
from catalogue import LR, build, is_elementwise
from gpu_plan import How, Row
from measure import Times, alternate, copying, seconds_of, synchronize
from memory import state_bytes
from stepwell.engine.backends import gpu
from stepwell.optimizers import find
from traffic import moved_bytes, passes
from workloads import Workload

OURS, COPY, FUSED_ADAMW = "stepwell", "copy", "torch fused AdamW"
LARGE_ENOUGH = 2**20  # elements: below, arrays fit in any cache
RATIOS = {
    "torch fused": "of fused",
    "torch foreach": "of foreach",
    "torch": "of torch",
    FUSED_ADAMW: "of AdamW",
}


def measure(row: Row, how: How) -> dict[str, Any]:
    """The figures of one row. Raises whatever the step of stepwell raises; a peer that fails is noted."""
    figures = _measure(row, how)
    gc.collect()
    if how.device == "cuda":  # after a failure the process is replaced, and this could hide what it was
        torch.cuda.empty_cache()
    return figures


def _measure(row: Row, how: How) -> dict[str, Any]:
    workload = getattr(workloads, row.workload)(row.size * how.scale)
    params = workload.make(how.device, torch.float32 if row.weights is None else torch.bfloat16)
    compiled = gpu.kernel.cache_info().misses
    optimizer = _ours(row, params, how)
    first = {OURS: seconds_of(optimizer.step, 1, how.device)}
    compiled = gpu.kernel.cache_info().misses - compiled
    actions: dict[str, Callable[[], Any]] = {OURS: optimizer.step}
    notes = _add_peers(row, params, how, actions, first)
    try:
        actions[COPY] = copying(workload.elements, how.device)
    except torch.OutOfMemoryError:
        notes.append(f"{row.label}: no memory for a copy of {workload.elements:,} elements")
    times = alternate(actions, how.device, how.rounds, min(row.calls, how.calls))
    figures = {
        "label": row.label,
        "workload": workload.name,
        "elements": workload.elements,
        "host seconds": _host_seconds(optimizer.step, how),
        "state bytes": state_bytes(optimizer) / workload.elements,
        "first step": first[OURS],
        "kernels": compiled,
        "first steps": first,
        "notes": notes,
    }
    return figures | _figures(times, optimizer, workload)


def _ours(row: Row, params: list[torch.Tensor], how: How) -> Any:
    cls = find(row.optimizer)
    options = {**cls.facts.compare_options}
    backend = how.backend if is_elementwise(cls) else "auto"  # a backend that is asked for runs no other rules
    if row.weights is not None:
        options["weights"] = row.weights
    with warnings.catch_warnings():  # Muon says that it takes these for hidden matrices
        warnings.simplefilter("ignore")
        return build(row.optimizer, params, options, row.state, backend)


def _add_peers(
    row: Row,
    params: list[torch.Tensor],
    how: How,
    actions: dict[str, Callable[[], Any]],
    first: dict[str, float],
) -> list[str]:
    """Add torch's steps on the same tensors, each tried once; notes on those that fail."""
    notes = []
    for label, make in _rivals(row).items():
        try:
            step = make(params).step
            first[label] = seconds_of(step, 1, how.device)
            actions[label] = step
        except Exception as error:  # whatever torch raises on this machine, out of memory among it
            notes.append(f"{row.label}, {label}: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
    return notes


def _rivals(row: Row) -> Mapping[str, peers.Make]:
    """Torch's fast ways of this optimizer, or its only one; and its fused AdamW where it has another name."""
    usual = find(row.optimizer).facts.compare_options
    ways = peers.of_torch(row.optimizer, usual, LR)
    fast = {label: make for label, make in ways.items() if label != "torch"}
    others = {FUSED_ADAMW: lambda params: peers.torch_fused_adamw(params, LR)} if row.optimizer != "AdamW" else {}
    return {**(fast or ways), **others}


def _host_seconds(step: Callable[[], Any], how: How) -> float:
    """The median time until a step returns, when the device has nothing to do before."""
    found = []
    for _ in range(how.rounds):
        synchronize(how.device)
        start = time.perf_counter()
        step()
        found.append(time.perf_counter() - start)
    synchronize(how.device)
    return statistics.median(found)


def _figures(times: Times, optimizer: Any, workload: Workload) -> dict[str, Any]:
    """Seconds, ratios and the share of the copy's speed."""
    figures: dict[str, Any] = {"seconds": times.seconds(OURS), "all seconds": {}}
    for name in times.rounds:
        figures["all seconds"][name] = times.seconds(name)
        if name in RATIOS:
            figures[RATIOS[name]] = times.ratio(OURS, name)
    moved = moved_bytes(optimizer)
    figures["passes"] = passes(optimizer)
    if moved is not None:
        figures["bytes per element"] = moved / workload.elements
        figures["GB/s"] = moved / figures["seconds"] / 1e9
    if COPY in times.rounds:
        figures["copy GB/s"] = 8 * workload.elements / times.seconds(COPY) / 1e9
        # A copy of tensors that fit in the cache is no limit of memory.
        if moved is not None and workload.elements >= LARGE_ENOUGH:
            figures["share"] = moved / (8 * workload.elements) / times.ratio(OURS, COPY)
    return figures
