"""The backend `gpu`: one Triton launch over all tensors of a launch, compiled from the traced rule.

Nothing waits for the device: step counts, the gradient factor and the flag of a non-finite gradient are read by the
kernel where they lie. With `TRITON_INTERPRET=1` in the environment (before triton is imported) kernels run in Triton's
interpreter on CPU tensors; that is for tests, and only when the backend is asked for by name.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import numpy as np
import torch

from stepwell.engine import formats
from stepwell.engine.plan import Launch, LaunchKind, Stale
from stepwell.engine.printed import module_of


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def refusal(kind: LaunchKind, tensor: torch.Tensor) -> str | None:
    """Why this backend cannot update `tensor`, or None."""
    if tensor.device.type != "cuda" and not (interpreted() and tensor.device.type == "cpu"):
        return f"it lies on {tensor.device}; the gpu backend updates tensors in a CUDA device's memory"
    try:
        import triton  # noqa: F401
    except ImportError as error:
        return f"Triton does not import ({error}): it comes with torch for CUDA, or pip install triton"
    return None


@cache
def kernel(kind: LaunchKind, summing: bool = False) -> Any:
    """The Triton function of one kind of launch, or that of its first pass."""
    from stepwell.engine.gpu_source import source

    return module_of(source(kind, summing), "gpu").kernel


def prepare(launch: Launch) -> None:
    """Gather this step's addresses and upload what of the tables has changed. Nothing is updated yet."""
    memory = launch.memory
    if not memory:
        memory.update(_memory(launch))
    memory["staged"], memory["keep"] = [], []
    table = memory["addresses"]
    for index, (tensor, gradient) in enumerate(zip(launch.tensors, launch.gradients, strict=True)):
        if gradient is None:
            table[index, 1] = 0
            continue
        if (tensor.dtype, tensor.device, tensor.shape, tensor.stride()) != memory["layout"][index]:
            raise Stale
        like = tensor.detach()
        if not memory["dense"][index]:
            like = torch.empty_like(like).copy_(like)
            memory["staged"].append((tensor.detach(), like))
        if gradient.is_sparse:
            gradient = gradient.to_dense()
        if gradient.dtype != like.dtype or gradient.stride() != like.stride():
            gradient = torch.empty_like(like).copy_(gradient)
        memory["keep"].append((like, gradient))
        slots = launch.slot_tensors(index)
        table[index] = [like.data_ptr(), gradient.data_ptr(), *(slot.data_ptr() for slot in slots)]
    active = table[:, 1] != 0
    if memory["active"] is None or not np.array_equal(active, memory["active"]):
        memory["active"] = active
        memory["device_active"] = _upload(active.astype(np.float32), launch)
        table_of_chunks = chunks(memory["sizes"], active)
        memory["chunks"] = _upload(table_of_chunks, launch)
        memory["programs"] = _upload(np.bincount(table_of_chunks[:, 0], minlength=len(active)), launch)
    if memory["uploaded"] is None or not np.array_equal(table, memory["uploaded"]):
        memory["uploaded"] = table.copy()
        memory["device_addresses"] = _upload(table, launch)
        memory["aligned"] = bool((table % 16 == 0).all())


def run(launch: Launch, rows: np.ndarray, gradient_factor: Any, found_inf: Any) -> None:
    """Update every tensor of `launch` that has a gradient."""
    from stepwell.engine.gpu_source import BLOCK

    memory, device = launch.memory, launch.tensors[0].device
    if memory["rows"] is None or not np.array_equal(rows, memory["rows"]):
        memory["rows"] = rows.copy()
        memory["device_rows"] = _upload(rows, launch)
    factor = torch.as_tensor(gradient_factor, dtype=torch.float32, device=device)
    flag = memory["no_inf"] if found_inf is None else torch.as_tensor(found_inf, dtype=torch.float32, device=device)
    launch.step_counts += memory["device_active"] * (flag == 0)
    options: dict[str, Any] = {} if interpreted() else {"enable_fp_fusion": False, "num_warps": 4}
    # A program reads what was before the step: another one of the same tensor may have written already.
    after = launch.step_counts if launch.numbers is None else launch.numbers
    before = after if launch.numbers is None else after.clone()
    grid = (memory["chunks"].shape[0],)
    arguments = [
        memory["chunks"],
        memory["device_addresses"],
        memory["device_sizes"],
        memory["device_groups"],
        launch.step_counts,
        memory["device_salts"],
        memory["device_rows"],
        factor,
        flag,
        before,
        after,
    ]
    options |= {"BLOCK": BLOCK, "ALIGNED": memory["aligned"]}
    totals = partials = flag
    if launch.kind.sums:
        partials = torch.zeros(grid[0], len(launch.kind.sums), dtype=torch.float64, device=device)
        kernel(launch.kind, True)[grid](*arguments, totals, partials, **options)
        totals = torch.segment_reduce(partials, "sum", lengths=memory["programs"], axis=0, initial=0.0)
    memory["kernel"][grid](*arguments, totals, partials, **options)
    for tensor, copy in memory["staged"]:
        tensor.copy_(copy)


def _memory(launch: Launch) -> dict[str, Any]:
    tensors = [tensor.detach() for tensor in launch.tensors]
    sizes = np.array([tensor.numel() for tensor in tensors], dtype=np.int64)
    return {
        "kernel": kernel(launch.kind),
        "addresses": np.zeros((len(tensors), 2 + formats.slot_columns(launch.kind)), dtype=np.int64),
        "uploaded": None,
        "aligned": False,
        "sizes": sizes,
        "dense": [torch.empty_like(tensor).stride() == tensor.stride() for tensor in tensors],
        "layout": [(tensor.dtype, tensor.device, tensor.shape, tensor.stride()) for tensor in tensors],
        "device_sizes": _upload(sizes, launch),
        "device_groups": _upload(launch.groups, launch),
        "device_salts": _upload(launch.salts, launch),
        "no_inf": torch.zeros((), device=tensors[0].device),
        "active": None,
        "rows": None,
        "staged": [],
        "keep": [],
    }


def _upload(table: np.ndarray, launch: Launch) -> torch.Tensor:
    """A table on the device of the launch, copied without waiting."""
    device = launch.tensors[0].device
    host = torch.from_numpy(np.ascontiguousarray(table))
    if device.type != "cuda":
        return host.clone()
    return host.pin_memory().to(device, non_blocking=True)


def chunks(sizes: np.ndarray, active: np.ndarray) -> np.ndarray:
    """int64 (programs, 2): which tensor, and the first of the elements a program updates."""
    from stepwell.engine.gpu_source import BLOCK

    places = np.flatnonzero(active)
    counts = -(-sizes[places] // BLOCK)
    tensor = np.repeat(places, counts)
    start = np.repeat(np.cumsum(counts) - counts, counts)
    first = (np.arange(counts.sum()) - start) * BLOCK
    return np.stack([tensor, first], axis=1).astype(np.int64)
