"""How an optimizer updates each tensor, with reasons: the tables of `optimizer.explain()` and `stepwell info`."""

from __future__ import annotations

import math
import platform
from collections import defaultdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from stepwell.engine import formats
from stepwell.engine.backends import BACKENDS
from stepwell.engine.bytes import LOW_BITS, of_tensor
from stepwell.engine.explanation import Explanation


def explain(optimizer: Any) -> Explanation:
    """A table with a line per group and kernel: tensors, elements, lr, decay, formats, bytes, backend; then reasons."""
    plan = optimizer.make_plan()  # the one its next step uses: a plan takes over the state it binds
    rows: dict[Any, list[Any]] = defaultdict(list)
    reasons: dict[str, list[str]] = defaultdict(list)
    for launch in plan.launches:
        for index, tensor in enumerate(launch.tensors):
            whole = None if launch.divided is None else launch.divided.of(launch, index)
            kind, position = launch.kind if whole is None else whole.kind, int(launch.groups[index])
            rows[position, kind, launch.backend.__name__.rsplit(".", 1)[-1]].append((tensor, whole))
            about = _reasons(optimizer, optimizer.param_groups[position], kind, tensor, launch.names[index])
            for reason in about if whole is None else [*about, _divided(whole)]:
                reasons[reason].append(launch.names[index])
    header = ["group", "tensors", "elements", "lr", "decay", "weights", "state", "bytes", "backend"]
    lines = [header]
    for (position, kind, backend), tensors in sorted(rows.items(), key=lambda item: item[0][0]):
        group = optimizer.param_groups[position]
        elements = sum(tensor.numel() for tensor, _ in tensors)
        decay = f"{group.get('weight_decay', 0):g} {kind.decay or 'by the rule'}"
        weights = kind.weights if kind.rounding == "native" else f"{kind.weights} {kind.rounding}"
        held = [f for name, f in zip(kind.slots, kind.slot_formats, strict=True) if name is not None]
        state = ", ".join(dict.fromkeys(held)) or "none"
        size = sum(_bytes(optimizer, group, kind, tensor, whole) for tensor, whole in tensors)
        label = group.get("name", str(position))
        numbers = [str(label), str(len(tensors)), f"{elements:,}", f"{float(group['lr']):g}"]
        lines.append([*numbers, decay, weights, state, f"{size:,}", backend])
    remarks = []
    for reason, names in reasons.items():
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        remarks.append(f"{reason} ({shown})")
    return Explanation.of([type(optimizer).__name__], lines, remarks)


def _bytes(optimizer: Any, group: dict[str, Any], kind: Any, tensor: Any, whole: Any) -> int:
    """Bytes of the state that this process has of a parameter; that of a divided matrix is with its owner."""
    shape = tensor.shape if whole is None or whole.whole is None else whole.shape
    size = of_tensor(optimizer.signature_for(group, tensor), group, shape, kind.weights)
    low_bits = LOW_BITS if kind.rounding == "split" else 0
    if whole is None:
        return size
    return low_bits * tensor.numel() + (0 if whole.whole is None else size - low_bits * math.prod(shape))


def _divided(whole: Any) -> str:
    who = "this process" if whole.whole is not None else f"process {whole.owner} of {whole.division.size}"
    return f"divided over processes; {who} owns the whole matrix"


def _reasons(optimizer: Any, group: dict[str, Any], kind: Any, tensor: Any, name: str) -> list[str]:
    """Why a tensor gets another format than requested, or not the fastest backend."""
    found = []
    state, wide = formats.state_format(group["state"], kind.weights, tensor.numel())
    if wide:
        found.append(wide)
    for slot, present, storage in zip(
        optimizer.signature_for(group, tensor).slots, kind.slots, kind.slot_formats, strict=True
    ):
        if present is None or slot.per != "element" or storage == state:
            continue
        if slot.wide:
            found.append(f"{slot.name} is {storage} in every format")
        else:
            beta = slot.beta(group)
            steps = f"{1 / (1 - beta):,.0f}" if 0 <= beta < 1 else "an unknown number of"
            found.append(
                f"{slot.name} is {storage}, not {state}: it averages over {steps} steps, in which the rounding errors "
                "of codes "
                "add up"
            )
    if group["weights"] != "native" and kind.rounding == "native":
        found.append(f"weights={group['weights']!r} has no effect: {kind.weights} weights need no rounding")
    found += optimizer.remarks(group, tensor)
    for label, backend in optimizer.backends_for(kind, tensor).items():
        reason = backend.refusal(kind, tensor)
        if reason is None:
            break
        found.append(f"not on {label}: {reason}")
    return found


def info() -> dict[str, dict[str, str]]:
    """Versions, devices, and for each backend whether it is available, with the reason if it is not."""
    versions = {"python": platform.python_version()}
    for package in ("stepwell", "torch", "numpy", "numba", "triton", "optuna", "plotly"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    devices = {"cpu": f"{platform.machine()}, torch uses {torch.get_num_threads()} threads"}
    for index in range(torch.cuda.device_count()):
        devices[f"cuda:{index}"] = torch.cuda.get_device_name(index)
    return {"versions": versions, "devices": devices, "backends": _backends()}


def _backends() -> dict[str, str]:
    result = {}
    for name, backend in BACKENDS.items():
        device = "cuda" if name == "gpu" and torch.cuda.is_available() else "cpu"
        reason = backend.refusal(None, torch.empty(0, device=device))
        if name == "gpu" and device == "cpu" and reason is not None:
            reason = "torch sees no CUDA device"
        result[name] = "ready" if reason is None else f"not available: {reason}"
    return result
