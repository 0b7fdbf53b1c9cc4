"""The backend `cpu`: one pass over all tensors of a launch, compiled by Numba from the traced rule.

A kernel is printed as a small Python module into a cache folder and imported from there, so that Numba keeps its
machine code beside it and a second process starts warm. The folder is `$STEPWELL_CACHE`, or `stepwell` in
`$XDG_CACHE_HOME` (`~/.cache`); where it cannot be written, a temporary folder of this process.
"""

from __future__ import annotations

import atexit
import hashlib
import importlib.util
import os
import shutil
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stepwell.engine import formats
from stepwell.engine.cpu_source import source
from stepwell.engine.plan import Launch, LaunchKind, Stale

# A small tensor costs its elements plus a fixed part (reading the tables, powers for the bias correction), here in
# elements. Measured on 400 tensors of 64 to 4,096 elements: anything from 100 to 1,000 balances two threads.
FIXED_COST = 256
CUT = 256  # threads divide a tensor at multiples of this many elements: whole blocks and cache lines


def refusal(kind: LaunchKind, tensor: torch.Tensor) -> str | None:
    """Why this backend cannot update `tensor`, or None."""
    if tensor.device.type != "cpu":
        return f"it lies on {tensor.device}; the cpu backend updates tensors in the CPU's memory"
    try:
        import numba  # noqa: F401
    except ImportError as error:
        return f"Numba does not import ({error})"
    return None


def prepare(launch: Launch) -> None:
    """Gather this step's addresses and divide the work. Nothing is updated yet, so that all launches can be refused."""
    memory = launch.memory
    if not memory:
        memory.update(_memory(launch))
    _collect_addresses(launch)
    threads = torch.get_num_threads()
    active = memory["addresses"][:, 1] != 0
    if threads != memory["threads"] or not np.array_equal(active, memory["active"]):
        memory["pieces"], memory["spans"] = divide(memory["sizes"], active, launch.groups, threads)
        memory["threads"], memory["active"] = threads, active


def run(launch: Launch, rows: np.ndarray, gradient_factor: float) -> None:
    """Update every tensor of `launch` that has a gradient."""
    memory = launch.memory
    _limit_threads(memory["threads"])
    launch.steps += memory["active"]
    table, steps, salts = memory["addresses"], launch.steps, memory["salts"]
    memory["kernel"](memory["pieces"], memory["spans"], table, steps, salts, rows, float(gradient_factor))
    for tensor, copy in memory["staged"]:
        tensor.copy_(copy)


def _memory(launch: Launch) -> dict[str, Any]:
    tensors = [tensor.detach() for tensor in launch.tensors]
    dense = [_is_dense(tensor) for tensor in tensors]
    return {
        "kernel": kernel(launch.kind),
        "addresses": np.zeros((len(tensors), 2 + _slot_columns(launch.kind)), dtype=np.int64),
        "weights": [tensor.data_ptr() for tensor in tensors],
        "sizes": np.array([tensor.numel() for tensor in tensors], dtype=np.int64),
        "contiguous": all(tensor.is_contiguous() for tensor in tensors),
        "dense": dense,
        "layout": [(tensor.dtype, tensor.device, tensor.shape, tensor.stride()) for tensor in tensors],
        "salts": launch.seeds * 0x85EBCA6B + np.array(launch.places, dtype=np.int64) * 0xC2B2AE35,
        "threads": 0,
        "active": None,
        "bound": np.zeros(len(tensors), dtype=bool),
        "all_bound": False,
        "staged": [],  # (tensor, copy): tensors with gaps are updated in a copy and written back
        "keep": [],  # copies that a kernel reads live until the next step
    }


def _is_dense(tensor: torch.Tensor) -> bool:
    """Whether the elements fill their memory without gaps or overlap, in whatever order."""
    return torch.empty_like(tensor).stride() == tensor.stride()


def _collect_addresses(launch: Launch) -> None:
    """Fill the table of addresses of parameters, gradients and slots; 0 for a gradient that is not there."""
    memory, tensors, gradients = launch.memory, launch.tensors, launch.gradients
    table = memory["addresses"]
    if not memory["all_bound"]:
        _bind_slots(launch)
    weights = list(map(torch.Tensor.data_ptr, tensors))
    if weights != memory["weights"]:
        _check_moved(launch, weights)
    memory["staged"], memory["keep"] = [], []
    if memory["contiguous"] and launch.complete and all(map(torch.Tensor.is_contiguous, gradients)):
        table[:, 1] = list(map(torch.Tensor.data_ptr, gradients))
        table[:, 0] = weights
        return
    for index, (tensor, gradient) in enumerate(zip(tensors, gradients, strict=True)):
        if gradient is None:
            table[index, 1] = 0
            continue
        like = tensor.detach()
        if not memory["dense"][index]:
            like = torch.empty_like(like).copy_(like)
            memory["staged"].append((tensor.detach(), like))
        if gradient.is_sparse:
            gradient = gradient.to_dense()
        if gradient.dtype != like.dtype or gradient.stride() != like.stride():
            gradient = torch.empty_like(like).copy_(gradient)
        memory["keep"].append((like, gradient))
        table[index, 0], table[index, 1] = like.data_ptr(), gradient.data_ptr()


def _check_moved(launch: Launch, weights: list[int]) -> None:
    """Parameters that lie elsewhere than at the last step are taken as they are, if only their address changed."""
    for tensor, layout in zip(launch.tensors, launch.memory["layout"], strict=True):
        if (tensor.dtype, tensor.device, tensor.shape, tensor.stride()) != layout:
            raise Stale
    launch.memory["weights"] = weights


def _bind_slots(launch: Launch) -> None:
    for index in np.flatnonzero(launch.started & ~launch.memory["bound"]):
        addresses = [tensor.data_ptr() for tensor in _slot_tensors(launch, index)]
        launch.memory["addresses"][index, 2 : 2 + len(addresses)] = addresses
        launch.memory["bound"][index] = True
    launch.memory["all_bound"] = bool(launch.memory["bound"].all())


def _slot_columns(kind: LaunchKind) -> int:
    present = zip(kind.slots, kind.slot_formats, strict=True)
    columns = sum(len(formats.state_names(slot, storage)) for slot, storage in present if slot is not None)
    return columns + (kind.rounding == "split")


def _slot_tensors(launch: Launch, index: int) -> list[torch.Tensor]:
    """The tensors that hold the state of one parameter, in the order of the table's columns."""
    tensors = [tensor for stored in launch.slots if stored is not None for tensor in stored[index]]
    return tensors if launch.low_bits is None else [*tensors, launch.low_bits[index]]


def divide(sizes: np.ndarray, active: np.ndarray, groups: np.ndarray, threads: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut the active tensors into pieces, and the pieces into one span of equal cost per thread.

    Returns pieces, int64 (n, 4): tensor, first element, number of elements, group; and spans, int64 (threads + 1,):
    thread k updates the pieces spans[k] to spans[k + 1].
    """
    places = np.flatnonzero(active)
    total = int(sizes[places].sum()) + FIXED_COST * len(places)
    pieces: list[tuple[int, int, int, int]] = []
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
                pieces.append((place, first, count, int(groups[place])))
                done += count + FIXED_COST
                first += count
            if len(spans) < threads and first < size:
                spans.append(len(pieces))
    spans += [len(pieces)] * (threads + 1 - len(spans))
    return np.array(pieces, dtype=np.int64).reshape(-1, 4), np.array(spans, dtype=np.int64)


def _limit_threads(threads: int) -> None:
    import numba

    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))


@cache
def kernel(kind: LaunchKind) -> Any:
    """The compiled kernel of one kind of launch (compiled, or read from the cache folder)."""
    text = source(kind)
    digest = hashlib.sha256((text + _environment()).encode()).hexdigest()[:20]
    path = _cache_folder() / f"kernel_{digest}.py"
    if not path.exists():
        # Under another name first: a second process never imports half a file.
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        with os.fdopen(handle, "w") as file:
            file.write(text)
        os.replace(temporary, path)
    try:
        return _compiled(path)
    except Exception:  # whatever a cache file that is torn or from elsewhere makes Numba raise
        for stale in path.parent.glob(f"__pycache__/{path.stem}.*"):
            stale.unlink(missing_ok=True)
        return _compiled(path)


def _compiled(path: Path) -> Any:
    """The kernel of a printed module, compiled or read from Numba's cache beside it."""
    from numba import float32, float64, int64

    name = f"stepwell_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    # Compiled now, not at the first call: what fails, fails before anything is updated.
    pieces = addresses = int64[:, ::1]
    spans = salts = int64[::1]
    module.kernel.compile((pieces, spans, addresses, float32[::1], salts, float64[:, ::1], float64))
    return module.kernel


@cache
def _environment() -> str:
    """What machine code depends on besides the printed text."""
    import numba

    called = [Path(__file__).with_name(name).read_text() for name in ("cpu_intrinsics.py", "formats.py")]
    return " ".join([numba.__version__, sys.version, *called])


@cache
def _cache_folder() -> Path:
    wanted = os.environ.get("STEPWELL_CACHE")
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(wanted) if wanted else home / "stepwell"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:  # read-only, or no home: machine code lives as long as this process
        folder = Path(tempfile.mkdtemp(prefix="stepwell-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return folder
