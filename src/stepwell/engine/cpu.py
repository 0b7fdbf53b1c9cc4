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
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stepwell.engine.frame import frame
from stepwell.engine.plan import Launch, LaunchKind, Stale
from stepwell.engine.trace import Scalar, Symbol, Trace, trace

# A small tensor costs its elements plus a fixed part (reading the tables, powers for the bias correction), here in
# elements. Measured on 400 tensors of 64 to 4,096 elements: anything from 100 to 1,000 balances two threads.
FIXED_COST = 256
CUT = 64  # threads divide a tensor at multiples of this many elements: whole cache lines


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
    memory["kernel"](memory["pieces"], memory["spans"], memory["addresses"], launch.steps, rows, float(gradient_factor))
    for tensor, copy in memory["staged"]:
        tensor.copy_(copy)


def _memory(launch: Launch) -> dict[str, Any]:
    tensors = [tensor.detach() for tensor in launch.tensors]
    dense = [_is_dense(tensor) for tensor in tensors]
    return {
        "kernel": kernel(launch.kind),
        "addresses": np.zeros((len(tensors), 2 + len(launch.slots)), dtype=np.int64),
        "weights": [tensor.data_ptr() for tensor in tensors],
        "sizes": np.array([tensor.numel() for tensor in tensors], dtype=np.int64),
        "contiguous": all(tensor.is_contiguous() for tensor in tensors),
        "dense": dense,
        "layout": [(tensor.dtype, tensor.device, tensor.shape, tensor.stride()) for tensor in tensors],
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
        for column, stored in enumerate(launch.slots, start=2):
            if stored is not None:
                launch.memory["addresses"][index, column] = stored[index].data_ptr()
        launch.memory["bound"][index] = True
    launch.memory["all_bound"] = bool(launch.memory["bound"].all())


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


def traced(kind: LaunchKind) -> Trace:
    """The frame around the rule of `kind` as symbols: outputs `p` and the slots, by name."""

    def update(**values: Any) -> dict[str, Any]:
        slots = [values.pop(f"slot_{i}") for i in range(len(kind.slots))]
        sign, factor = values.pop("gradient_sign"), values.pop("gradient_factor")
        p, new_slots = frame(
            kind.rule,
            values.pop("g"),
            values.pop("p"),
            values.pop("t"),
            slots,
            decay=kind.decay,
            gradient_factor=sign * factor,
            **values,
        )
        named = {name: new for name, new in zip(kind.slots, new_slots, strict=True) if name is not None}
        return {"p": p, **named}

    elements: dict[str, str | None] = {"g": "g", "p": "p"}
    elements |= {f"slot_{i}": name for i, name in enumerate(kind.slots)}
    names = ("t", "lr", "weight_decay", "gradient_sign", "gradient_factor", *kind.number_arguments)
    return trace(update, elements, {**{n: Scalar(n) for n in names}, **dict(kind.flags)})


_INFIX = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "pow": "**", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
    "eq": "==", "ne": "!=", "and_": "&", "or_": "|",
}  # fmt: skip


def source(kind: LaunchKind) -> str:
    """The kernel of one kind of launch as the text of a Python module."""
    program = traced(kind)
    real = "float64" if kind.weights == "fp64" else "float32"
    arrays = ["p", "g", *(name for name in kind.slots if name is not None)]
    formats = {"p": kind.weights, "g": kind.gradients}
    formats |= {n: f for n, f in zip(kind.slots, kind.slot_formats, strict=True) if n is not None and f is not None}
    columns = {"p": 0, "g": 1} | {name: i for i, name in enumerate(kind.slots, start=2) if name is not None}
    widths = {"fp32": 4, "fp64": 8, "bf16": 2, "fp16": 2}

    prologue: list[str] = []
    body: list[str] = []
    rounded: set[int] = set()

    def operand(symbol: Symbol, in_element: bool) -> str:
        """How `symbol` is written where it is used; a number used by an element is rounded to its precision once."""
        if symbol.kind == "element":
            return f"e{symbol.index}"
        if not in_element or symbol.is_condition:
            return f"s{symbol.index}"
        if symbol.index not in rounded:
            rounded.add(symbol.index)
            prologue.append(f"r{symbol.index} = {real}(s{symbol.index})")
        return f"r{symbol.index}"

    for symbol in program.needed():
        element = symbol.kind == "element"
        if symbol.op == "input":
            if element:
                body.append(f"e{symbol.index} = load_{symbol.value}(at_{symbol.value}, i)")
            elif symbol.value == "t":
                prologue.append(f"s{symbol.index} = float64(steps[tensor])")
            elif symbol.value == "gradient_factor":
                prologue.append(f"s{symbol.index} = gradient_factor")
            else:
                prologue.append(f"s{symbol.index} = rows[row, {kind.row_names.index(symbol.value)}]")
            continue
        if symbol.op == "constant":
            prologue.append(f"s{symbol.index} = float64({symbol.value!r})")
            continue
        args = [operand(arg, element) for arg in symbol.args]
        if symbol.op in _INFIX:
            text = f" {_INFIX[symbol.op]} ".join(args)
        elif symbol.op == "neg":
            text = f"-{args[0]}"
        elif symbol.op == "not_":
            text = f"not {args[0]}"
        else:
            text = f"{symbol.op}({', '.join(args)})"
        (body if element else prologue).append(f"{'e' if element else 's'}{symbol.index} = {text}")
    stores = [f"store_{name}(at_{name}, i, {operand(value, True)})" for name, value in program.outputs.items()]
    # Where an element is needed but a number is what there is (a rule that returns a constant), it is rounded above.

    def indented(lines: list[str], depth: int) -> str:
        return "\n".join("    " * depth + line for line in lines)

    bindings = [f"load_{a} = LOAD[{formats[a]!r}, {columns[a]}]" for a in arrays]
    bindings += [f"store_{a} = STORE[{formats[a]!r}, {columns[a]}]" for a in arrays if a != "g"]
    places = [f"at_{a} = addresses[tensor, {columns[a]}] + first * {widths[formats[a]]}" for a in arrays]
    return f'''"""Printed by stepwell: {kind.rule.__module__}, weights {kind.weights}, slots {kind.slots}."""

from numba import float32, float64, njit, prange

from stepwell.engine.cpu_intrinsics import LOAD, STORE, abs, atan2, maximum, minimum, sign, sqrt, where

{indented(bindings, 0)}


@njit(parallel=True, nogil=True, cache=True, error_model="numpy")
def kernel(pieces, spans, addresses, steps, rows, gradient_factor):
    for thread in prange(spans.shape[0] - 1):
        for piece in range(spans[thread], spans[thread + 1]):
            tensor, first, count, row = pieces[piece, 0], pieces[piece, 1], pieces[piece, 2], pieces[piece, 3]
{indented(places, 3)}
{indented(prologue, 3)}
            for i in range(count):
{indented(body, 4)}
{indented(stores, 4)}
'''


@lru_cache(maxsize=None)
def kernel(kind: LaunchKind) -> Any:
    """The compiled kernel of one kind of launch (compiled at its first call, or read from the cache folder)."""
    text = source(kind)
    digest = hashlib.sha256((text + _environment()).encode()).hexdigest()[:20]
    path = _cache_folder() / f"kernel_{digest}.py"
    if not path.exists():
        # Under another name first: a second process never imports half a file.
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        with os.fdopen(handle, "w") as file:
            file.write(text)
        os.replace(temporary, path)
    name = f"stepwell_kernel_{digest}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module.kernel


@lru_cache(maxsize=None)
def _environment() -> str:
    """What machine code depends on besides the printed text."""
    import numba

    intrinsics = Path(__file__).with_name("cpu_intrinsics.py").read_text()
    return f"{numba.__version__} {sys.version} {intrinsics}"


@lru_cache(maxsize=None)
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
