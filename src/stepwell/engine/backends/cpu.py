"""The backend `cpu`: one pass over all tensors of a launch, compiled by Numba from the traced rule.

A kernel is printed as a small Python module (`kernels/printed.py`) and compiled; its machine code is kept in a cache
folder (`kernels/machine_code.py`), so that a second process starts without compilation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch

from stepwell.engine import formats
from stepwell.engine.backends import eager
from stepwell.engine.backends.addresses import Addresses
from stepwell.engine.backends.cpu_job import Job, Piece, Word
from stepwell.engine.backends.cpu_source import source, sums_source
from stepwell.engine.kernels import threads
from stepwell.engine.kernels.compiled import compiled
from stepwell.engine.kind import LaunchKind, norm_of
from stepwell.engine.launch import Launch
from stepwell.engine.pointers import is_wrapper

# A small tensor costs its elements plus a fixed part (reading the tables, powers for the bias correction), here in
# elements. Measured on 400 tensors of 64 to 4,096 elements: anything from 100 to 1,000 balances two threads.
FIXED_COST = 256
SPANS = 4  # spans per thread: a thread whose core is busy with something else takes fewer
FEWEST = 8192  # elements per thread below which waking it costs more than it does
_INT8, _INT4 = formats.block_of("int8"), formats.block_of("int4")
CUT = 256  # threads divide a tensor at multiples of this many elements: whole blocks and cache lines


def refusal(kind: LaunchKind | None, tensor: torch.Tensor) -> str | None:
    """The reason why this backend cannot update `tensor`, or None."""
    if kind is not None and kind.view != "element":
        return "its rule works on whole matrices, and this backend runs only elementwise rules"
    if is_wrapper(tensor):
        return f"it is a {type(tensor).__name__}, whose elements are stored in other tensors; kernels use addresses"
    if tensor.device.type != "cpu":
        return f"it is on {tensor.device}; the cpu backend updates tensors on the CPU"
    try:
        import numba  # noqa: F401
    except ImportError as error:
        return f"Numba cannot be imported ({error})"
    return None


@dataclass
class CpuMemory:
    """The data of a launch that this backend keeps between steps."""

    kind: LaunchKind
    addresses: Addresses
    totals: np.ndarray  # those of the launch, as NumPy's
    job: Job = field(default_factory=Job)
    available: int = 0  # threads, when the work was divided
    threads: int = 1  # as many as the work is worth
    active: np.ndarray | None = None  # which tensors have a gradient
    by_rows: bool = False  # whether the work was divided by single rows, for a gradient that is gone
    # int64 (n, columns of `Piece`) and (spans + 1,), see `divide`
    pieces: np.ndarray = field(default_factory=lambda: np.zeros((0, len(Piece)), np.int64))
    spans: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))
    firsts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # of each tensor, its first piece
    # Of the update that is being made; the kernel reads them.
    steps: np.ndarray | None = None
    numbers_before: torch.Tensor | None = None

    @cached_property
    def kernel(self) -> Any:
        """The updating kernel, compiled when it first runs: launches of matrices have their norm from here alone."""
        return kernel(self.kind)

    def release(self) -> None:
        """Release the gradients."""
        self.addresses.release()


def prepare(launch: Launch) -> None:
    """Gather this step's addresses and divide the work. Nothing is updated yet, so that an error in any launch changes
    nothing."""
    if launch.memory is None:
        launch.memory = CpuMemory(launch.kind, Addresses(launch), launch.totals.numpy())
    memory: CpuMemory = launch.memory
    addresses, had_rows = memory.addresses, memory.by_rows
    addresses.collect(launch)
    memory.by_rows = addresses.has_rows
    active = addresses.table[:, 1] != 0
    available = torch.get_num_threads()
    again = had_rows or addresses.has_rows or available != memory.available
    if again or memory.active is None or not np.array_equal(active, memory.active):
        memory.available, memory.active = available, active
        _divide_work(launch)
        _write_job(launch)


def measure(launch: Launch, rows: np.ndarray, gradient_factor: Any) -> None:
    """The first of two passes: the rule's sums over each tensor, in the order of its pieces."""
    _write_numbers(launch, rows, gradient_factor)
    _add_up(launch, sums_kernel(launch.kind), launch.memory.totals)


def squares(launch: Launch) -> torch.Tensor:
    """The sum of squares of each gradient, float64 (tensors,); 0 without a gradient. `launch` is prepared."""
    memory: CpuMemory = launch.memory
    totals, signs = np.zeros((len(launch.tensors), 1)), np.ones((len(launch.param_groups), 1))
    addresses = np.ascontiguousarray(memory.addresses.table[:, :2])
    _write_numbers(launch, signs, 1.0)
    memory.job[Word.ADDRESSES] = addresses.ctypes.data
    _add_up(launch, sums_kernel(norm_of(launch.kind)), totals)
    memory.job[Word.ADDRESSES] = memory.addresses.table.ctypes.data
    for index in memory.addresses.apart:
        totals[index] = float(torch.linalg.vector_norm(launch.gradient_of(index).values(), dtype=torch.float64)) ** 2
    return torch.from_numpy(totals[:, 0])


def run(launch: Launch, rows: np.ndarray, gradient_factor: Any, found_inf: Any) -> None:
    """Update every tensor of `launch` that has a gradient."""
    if found_inf is not None and bool(found_inf):
        return
    memory: CpuMemory = launch.memory
    _write_numbers(launch, rows, gradient_factor)
    launch.began = True
    threads.run(memory.kernel.address, memory.job.address, memory.threads)
    _complete(launch, rows, gradient_factor)


def finish(launch: Launch, rows: np.ndarray, gradient_factor: Any) -> None:
    """Complete an update that an exception interrupted. The kernel counts its finished spans, so none runs twice."""
    memory: CpuMemory = launch.memory
    if memory.job[Word.TAKEN] == 0:
        threads.run(memory.kernel.address, memory.job.address, memory.threads)
    _complete(launch, rows, gradient_factor)


def _complete(launch: Launch, rows: np.ndarray, gradient_factor: Any) -> None:
    """The work after the kernel; repeating it is harmless."""
    memory: CpuMemory = launch.memory
    for index in memory.addresses.apart:
        if index not in launch.finished:
            eager.update(launch, index, rows, float(gradient_factor))
    for tensor, copy in memory.addresses.staged:
        tensor.copy_(copy)
    launch.slots.steps[:] = memory.steps


def _divide_work(launch: Launch) -> None:
    """Pieces and spans of this step: whole tensors, divided at the boundaries of threads, and single rows of row-sparse
    gradients."""
    memory: CpuMemory = launch.memory
    addresses = memory.addresses
    assert memory.active is not None
    rows, sizes, whole = addresses.rows, addresses.sizes, memory.active.copy()
    cut = addresses.by_line(whole)
    whole[[*rows, *addresses.apart, *cut]] = False
    elements = int(sizes[whole].sum()) + sum(len(ids) * length for ids, length in rows.values())
    elements += int(sizes[list(cut)].sum())
    memory.threads = count = max(1, min(memory.available, elements // FEWEST))
    wanted = 1 if count == 1 else count * SPANS
    pieces, spans = divide(sizes, whole, launch.groups, wanted)
    if rows or cut:
        parts = [row_pieces(i, int(launch.groups[i]), ids.numpy(), length) for i, (ids, length) in rows.items()]
        for i, (length, between) in cut.items():
            parts.append(row_pieces(i, int(launch.groups[i]), np.arange(sizes[i] // length), length, between))
        more = np.concatenate(parts)
        cost = np.cumsum(more[:, Piece.SIZE] + FIXED_COST)
        cuts = np.searchsorted(cost, np.linspace(0, cost[-1] if len(cost) else 0, wanted + 1)[1:-1])
        ends = np.append(cuts, len(more)) + len(pieces)
        pieces, spans = np.concatenate([pieces, more]), np.concatenate([spans, ends])
    memory.pieces, memory.spans = pieces, spans
    memory.firsts = np.flatnonzero(np.diff(pieces[:, Piece.TENSOR], prepend=-1))


def _write_numbers(launch: Launch, rows: np.ndarray, gradient_factor: Any) -> None:
    """The words of the job that change from step to step."""
    memory: CpuMemory = launch.memory
    job, numbers = memory.job, launch.slots.numbers
    assert memory.active is not None
    job[Word.TAKEN] = 0
    # The rule sees the step that is being made. The state has it once all is written.
    memory.steps = launch.slots.steps + memory.active.astype(np.float32)
    job[Word.STEPS], job[Word.ROWS] = memory.steps.ctypes.data, rows.ctypes.data
    job.set_factor(float(gradient_factor))
    if numbers is not None:  # threads that share a tensor all read what was before, and write the same
        memory.numbers_before = numbers.clone()
        job[Word.NUMBERS_BEFORE], job[Word.NUMBERS] = memory.numbers_before.data_ptr(), numbers.data_ptr()


def _add_up(launch: Launch, summing: Any, totals: np.ndarray) -> None:
    """Run a kernel that only reads, and fill `totals` with the sums over each tensor, in the order of its pieces."""
    memory: CpuMemory = launch.memory
    partials = np.empty((len(memory.pieces), totals.shape[1]))
    memory.job[Word.PARTIALS] = partials.ctypes.data
    threads.run(summing.address, memory.job.address, memory.threads)
    totals[:] = 0
    if len(memory.firsts):
        totals[memory.pieces[memory.firsts, Piece.TENSOR]] = np.add.reduceat(partials, memory.firsts, axis=0)


def _write_job(launch: Launch) -> None:
    """The words of the job that change with the division of the work."""
    memory: CpuMemory = launch.memory
    job = memory.job
    job[Word.SPANS] = len(memory.spans) - 1
    job[Word.SPAN_TABLE], job[Word.PIECES] = memory.spans.ctypes.data, memory.pieces.ctypes.data
    job[Word.ADDRESSES] = memory.addresses.table.ctypes.data
    job[Word.SALTS], job[Word.ELEMENTS] = launch.salts.ctypes.data, launch.elements.ctypes.data
    job[Word.TOTALS] = memory.totals.ctypes.data


def divide(sizes: np.ndarray, active: np.ndarray, groups: np.ndarray, threads: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut the active tensors into pieces, and the pieces into one span of equal cost per thread.

    Returns pieces, int64 (n, columns of `Piece`); and spans, int64 (threads + 1,): thread k updates the pieces spans[k]
    to spans[k + 1].
    """
    places = np.flatnonzero(active)
    total = int(sizes[places].sum()) + FIXED_COST * len(places)
    pieces: list[tuple[int, ...]] = []
    spans = [0]
    done = 0  # cost of what is cut already
    for place in places.tolist():
        size, first = int(sizes[place]), 0
        while first < size:
            room = total * len(spans) // threads - done - FIXED_COST
            count = size - first
            if len(spans) < threads and room < count:
                count = max(0, room) // CUT * CUT
            if count:
                blocks = first // _INT8, first // _INT4, first // 2
                pieces.append((place, first, count, int(groups[place]), first, first, *blocks))
                done += count + FIXED_COST
                first += count
            if len(spans) < threads and first < size:
                spans.append(len(pieces))
    spans += [len(pieces)] * (threads + 1 - len(spans))
    return np.array(pieces, dtype=np.int64).reshape(-1, len(Piece)), np.array(spans, dtype=np.int64)


def row_pieces(tensor: int, group: int, ids: np.ndarray, length: int, between: int = 0) -> np.ndarray:
    """One piece, as those of `divide`, per row of a row-sparse gradient, whose k-th row is the row ids[k], or of a
    tensor whose rows are updated one by one (`Addresses.lines`). `between`: elements of the whole tensor that lie
    between the rows here, in other processes."""
    if not len(ids):  # the numbers of a tensor change with its count, also where no row does
        ids, length = np.zeros(1, dtype=np.int64), 0
    pieces = np.empty((len(ids), len(Piece)), dtype=np.int64)
    pieces[:, Piece.TENSOR], pieces[:, Piece.GROUP] = tensor, group
    pieces[:, Piece.FIRST], pieces[:, Piece.SIZE] = ids * length, length
    pieces[:, Piece.GRADIENT] = np.arange(len(ids)) * length
    pieces[:, Piece.PLACE] = ids * (length + between)
    pieces[:, Piece.BLOCKS_INT8], pieces[:, Piece.BLOCKS_INT4] = ids * -(-length // _INT8), ids * -(-length // _INT4)
    pieces[:, Piece.BYTES_INT4] = ids * -(-length // 2)
    return pieces


@cache
def kernel(kind: LaunchKind) -> Any:
    """The updating kernel of one kind of launch (compiled, or read from the cache folder)."""
    return compiled(source(kind))


@cache
def sums_kernel(kind: LaunchKind) -> Any:
    """The kernel of the first pass, which only reads."""
    return compiled(sums_source(kind))
