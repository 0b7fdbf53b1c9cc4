"""The backend `gpu`: one Triton launch over all tensors of a launch, compiled from the traced rule.

Nothing waits for the device: the kernel reads step counts, the gradient factor and the flag of a non-finite gradient
from device memory. With `TRITON_INTERPRET=1` in the environment (before triton is imported) kernels run in Triton's
interpreter on CPU tensors; that is for tests, and only when the backend is asked for by name.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

from stepwell.engine.backends import eager
from stepwell.engine.backends.addresses import Addresses
from stepwell.engine.kernels import printed
from stepwell.engine.kind import LaunchKind, norm_of
from stepwell.engine.launch import Launch
from stepwell.engine.pointers import is_wrapper


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def refusal(kind: LaunchKind | None, tensor: torch.Tensor) -> str | None:
    """The reason why this backend cannot update `tensor`, or None."""
    if kind is not None and kind.view != "element":
        return "its rule works on whole matrices, and this backend runs only elementwise rules"
    if is_wrapper(tensor):
        return f"it is a {type(tensor).__name__}, whose elements are stored in other tensors; kernels use addresses"
    if tensor.device.type != "cuda" and not (interpreted() and tensor.device.type == "cpu"):
        return f"it is on {tensor.device}; the gpu backend updates tensors on a CUDA device"
    try:
        import triton  # noqa: F401
    except ImportError as error:
        return f"Triton cannot be imported ({error}); it comes with torch for CUDA, or pip install triton"
    return None


@cache
def kernel(kind: LaunchKind, summing: bool = False) -> Any:
    """The Triton function of one kind of launch, or that of its first pass."""
    from stepwell.engine.backends.gpu_source import source

    text = source(kind, summing)
    return printed.module_of(text, printed.digest_of(text, "gpu")).kernel


@dataclass
class GpuMemory:
    """The data of a launch that this backend keeps between steps; tensors are on the device of the launch."""

    kernel: Any
    addresses: Addresses
    elements: torch.Tensor  # those of the launch
    groups: torch.Tensor
    salts: torch.Tensor
    no_inf: torch.Tensor  # a flag that is never set
    signs: torch.Tensor  # ones: rows of numbers for a norm
    active: np.ndarray | None = None  # which tensors have a gradient
    device_active: Any = None
    by_rows: bool = False  # whether the work was divided by single rows, for a gradient that is gone
    chunks: Any = None  # int64 (programs, 8), see `chunks`
    programs: Any = None  # of each tensor, how many
    in_rows: bool = False  # whether some chunks are of single rows
    table: np.ndarray | None = None  # the addresses that the device has
    device_table: Any = None
    aligned: bool = False  # whether all addresses are multiples of 16
    rows: np.ndarray | None = None  # the numbers of the groups that the device has
    device_rows: Any = None
    # Of the update that is being made
    flag: Any = None
    steps: Any = None
    started: bool = False

    def release(self) -> None:
        """Release the gradients."""
        self.addresses.release()


def _made(launch: Launch) -> GpuMemory:
    device = launch.tensors[0].device
    return GpuMemory(
        kernel=kernel(launch.kind),
        addresses=Addresses(launch),
        elements=_upload(launch.elements, launch),
        groups=_upload(launch.groups, launch),
        salts=_upload(launch.salts, launch),
        no_inf=torch.zeros((), device=device),
        signs=torch.ones(len(launch.param_groups), 1, dtype=torch.float64, device=device),
    )


def prepare(launch: Launch) -> None:
    """Gather this step's addresses and upload changed tables. Nothing is updated yet."""
    if launch.memory is None:
        launch.memory = _made(launch)
    memory: GpuMemory = launch.memory
    addresses = memory.addresses
    had_rows = memory.by_rows
    addresses.collect(launch)
    memory.by_rows = addresses.has_rows
    table, rows = addresses.table, addresses.rows
    active = table[:, 1] != 0
    again = had_rows or addresses.has_rows
    if again or memory.active is None or not np.array_equal(active, memory.active):
        memory.active = active
        memory.device_active = _upload(active.astype(np.float32), launch)
        whole = active.copy()
        cut = addresses.by_line(whole)
        whole[[*rows, *addresses.apart, *cut]] = False
        table_of_chunks = chunks(addresses.sizes, whole)
        programs = np.bincount(table_of_chunks[:, 0], minlength=len(active))
        parts = [_upload(table_of_chunks, launch)]
        for index, (ids, length) in rows.items():
            parts.append(row_chunks(index, ids, length))
            programs[index] = len(parts[-1])
        for index, (length, between) in cut.items():
            ids = torch.arange(int(addresses.sizes[index]) // length, device=launch.tensors[0].device)
            parts.append(row_chunks(index, ids, length, between))
            programs[index] = len(parts[-1])
        memory.in_rows = bool(rows or cut)
        # segment_reduce wants the programs of a tensor side by side, in the order of tensors: so they are as long as
        # sums are over dense gradients, or over all tensors
        memory.chunks = torch.cat(parts)
        memory.programs = _upload(programs, launch)
    if memory.table is None or not np.array_equal(table, memory.table):
        memory.table = table.copy()
        memory.device_table = _upload(table, launch)
        memory.aligned = bool((table % 16 == 0).all())


def measure(launch: Launch, rows: np.ndarray, gradient_factor: Any) -> None:
    """The first of two passes: the rule's sums over each tensor."""
    memory: GpuMemory = launch.memory
    steps = launch.slots.step_counts + memory.device_active  # the rule sees the step that is being made
    _upload_rows(launch, rows)
    launch.totals = _sums(launch, launch.kind, memory.device_table, memory.device_rows, steps, gradient_factor)


def squares(launch: Launch) -> torch.Tensor:
    """Float64 (tensors,) that add up to the square of the norm of all gradients, on the device. `launch` is prepared.

    Each is the sum of one gradient, unless some gradients are row-sparse.
    """
    memory: GpuMemory = launch.memory
    addresses = memory.device_table[:, :2].contiguous()
    totals = _sums(launch, norm_of(launch.kind), addresses, memory.signs, launch.slots.step_counts, 1.0)[:, 0]
    for index in memory.addresses.apart:
        totals[index] += torch.linalg.vector_norm(launch.gradient_of(index).values(), dtype=torch.float64) ** 2
    return totals


def run(launch: Launch, rows: np.ndarray, gradient_factor: Any, found_inf: Any) -> None:
    """Update every tensor of `launch` that has a gradient."""
    memory: GpuMemory = launch.memory
    _upload_rows(launch, rows)
    flag = memory.no_inf
    if found_inf is not None:
        flag = torch.as_tensor(found_inf, dtype=torch.float32, device=flag.device)
    memory.flag = None if found_inf is None else flag
    # The rule sees the step that is being made. The state has it once all is written.
    memory.steps = steps = launch.slots.step_counts + memory.device_active * (flag == 0)
    # A program reads what was before the step: another one of the same tensor may have written already.
    after = steps if launch.slots.numbers is None else launch.slots.numbers
    before = after if launch.slots.numbers is None else after.clone()
    totals = launch.totals if launch.kind.sums else flag
    memory.started = False
    launch.began = True
    _start(
        memory.kernel, launch, memory.device_table, memory.device_rows, steps,
        gradient_factor, flag, before, after, totals, flag,
    )  # fmt: skip
    memory.started = True
    _complete(launch, rows, gradient_factor)


def finish(launch: Launch, rows: np.ndarray, gradient_factor: Any) -> None:
    """Complete an update that an exception interrupted."""
    if not launch.memory.started:
        run(launch, rows, gradient_factor, launch.memory.flag)
    else:
        _complete(launch, rows, gradient_factor)


def _complete(launch: Launch, rows: np.ndarray, gradient_factor: Any) -> None:
    """The work after the kernel; repeating it is harmless."""
    memory: GpuMemory = launch.memory
    for index in memory.addresses.apart:
        if index not in launch.finished and (memory.flag is None or not bool(memory.flag)):  # waits
            eager.update(launch, index, rows, float(gradient_factor))
    for tensor, copy in memory.addresses.staged:
        tensor.copy_(copy)
    launch.slots.step_counts.copy_(memory.steps)


def _sums(
    launch: Launch,
    kind: LaunchKind,
    addresses: torch.Tensor,
    rows: torch.Tensor,
    steps: torch.Tensor,
    gradient_factor: Any,
) -> torch.Tensor:
    """Float64 (tensors, sums) of a kernel that only reads; zero where there is no gradient."""
    memory: GpuMemory = launch.memory
    numbers = steps if launch.slots.numbers is None else launch.slots.numbers
    partials = torch.zeros(memory.chunks.shape[0], len(kind.sums), dtype=torch.float64, device=steps.device)
    _start(
        kernel(kind, True), launch, addresses, rows, steps,
        gradient_factor, memory.no_inf, numbers, numbers, partials, partials,
    )  # fmt: skip
    return torch.segment_reduce(partials, "sum", lengths=memory.programs, axis=0, initial=0.0)


def _start(
    function: Any,
    launch: Launch,
    addresses: torch.Tensor,
    rows: torch.Tensor,
    steps: torch.Tensor,
    gradient_factor: Any,
    *tables: torch.Tensor,
) -> None:
    """Start one program per chunk. `tables`: the flag, numbers before and after, totals, partial sums."""
    from stepwell.engine.backends.gpu_source import BLOCK

    memory: GpuMemory = launch.memory
    factor = torch.as_tensor(gradient_factor, dtype=torch.float32, device=steps.device)
    options: dict[str, Any] = {} if interpreted() else {"enable_fp_fusion": False, "num_warps": 4}
    grid = (memory.chunks.shape[0],)
    if grid[0] == 0:
        return
    function[grid](
        memory.chunks,
        addresses,
        memory.elements,
        memory.groups,
        steps,
        memory.salts,
        rows,
        factor,
        *tables,
        BLOCK=BLOCK,
        ALIGNED=memory.aligned,
        ROWS=memory.in_rows,
        **options,
    )


def _upload_rows(launch: Launch, rows: np.ndarray) -> None:
    memory: GpuMemory = launch.memory
    if memory.rows is None or not np.array_equal(rows, memory.rows):
        memory.rows = rows.copy()
        memory.device_rows = _upload(rows, launch)


def _upload(table: np.ndarray, launch: Launch) -> torch.Tensor:
    """A table on the device of the launch, copied without waiting."""
    device = launch.tensors[0].device
    host = torch.from_numpy(np.ascontiguousarray(table))
    if device.type != "cuda":
        return host.clone()
    return host.pin_memory().to(device, non_blocking=True)


def chunks(sizes: np.ndarray, active: np.ndarray) -> np.ndarray:
    """int64 (programs, 8): which tensor, the first of the elements a program updates and the end of them, how far the
    gradient's elements lie from the parameter's, and how far their places in the whole tensor; and the blocks of int8
    and int4 codes and the bytes of int4 codes that come before (see `row_chunks`)."""
    from stepwell.engine.backends.gpu_source import BLOCK

    places = np.flatnonzero(active)
    counts = -(-sizes[places] // BLOCK)
    tensor = np.repeat(places, counts)
    start = np.repeat(np.cumsum(counts) - counts, counts)
    first = (np.arange(counts.sum()) - start) * BLOCK
    none = np.zeros_like(first)
    before = first // 256, first // 128, first // 2
    return np.stack([tensor, first, sizes[tensor], none, none, *before], axis=1).astype(np.int64)


def row_chunks(tensor: int, ids: torch.Tensor, length: int, between: int = 0) -> torch.Tensor:
    """The chunks of a row-sparse gradient, made on its device: its k-th row is the row ids[k]. `between`: elements of
    the whole tensor that lie between the rows here, in other processes."""
    from stepwell.engine.backends.gpu_source import BLOCK

    if not len(ids):  # the numbers of a tensor change with its count, also where no row does
        return torch.tensor([[tensor, *[0] * 7]], device=ids.device)
    inside = torch.arange(0, length, BLOCK, device=ids.device)
    each = torch.ones_like(inside)
    columns = (
        ids[:, None] * length + inside,
        (ids + 1)[:, None] * length * each,
        ((torch.arange(len(ids), device=ids.device) - ids) * length)[:, None] * each,
        (ids * between)[:, None] * each,
        ids[:, None] * -(-length // 256) + inside // 256,
        ids[:, None] * -(-length // 128) + inside // 128,
        ids[:, None] * -(-length // 2) + inside // 2,
    )
    return torch.stack([torch.full_like(columns[0], tensor), *columns], dim=-1).flatten(0, 1)
