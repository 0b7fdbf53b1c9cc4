"""The memory that a training run needs, computed before the run."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from stepwell.arguments import items, refusal, text, whole
from stepwell.engine import formats
from stepwell.engine.bytes import PER_ELEMENT, of_shape, of_tensor
from stepwell.engine.update import wraps_another
from stepwell.errors import UsageError, nearest, shown
from stepwell.optimizers import TABLE, find, known

Shape = tuple[int, ...]


def _slots(count: float) -> Callable[[Shape], float]:
    return lambda shape: count * math.prod(shape)


def _factored(shape: Shape) -> float:
    """Adafactor: a sum per row and per column for matrices, one per element for the rest."""
    if len(shape) < 2:
        return math.prod(shape)
    return math.prod(shape[:-1]) + math.prod(shape[:-2]) * shape[-1]


def _shampoo(shape: Shape) -> float:
    """Shampoo: a factor and its root for each side of a matrix."""
    rows, columns = _as_matrix(shape)
    return 2 * (rows**2 + columns**2) if len(shape) >= 2 else math.prod(shape)


def _soap(shape: Shape) -> float:
    """SOAP: Adam's two moments, a factor and an eigenbasis for each side."""
    return 2 * math.prod(shape) + (_shampoo(shape) if len(shape) >= 2 else 0)


def _as_matrix(shape: Shape) -> tuple[int, int]:
    return (shape[0], math.prod(shape[1:])) if shape else (1, 1)


# Elements of state for a tensor, of optimizers of torch and of other libraries, which do not declare what they keep: by
# class name, at their usual settings.
STATE: dict[str, Callable[[Shape], float]] = {
    "adadelta": _slots(2),
    "adafactor": _factored,
    "adagrad": _slots(1),
    "adam": _slots(2),
    "adamax": _slots(2),
    "adamw": _slots(2),
    "asgd": _slots(1),
    "lamb": _slots(2),
    "lars": _slots(1),
    "lbfgs": _slots(2 * 100 + 2),  # torch's history of 100 pairs, a direction and a gradient
    "lion": _slots(1),
    "muon": _slots(1),
    "nadam": _slots(2),
    "radam": _slots(2),
    "rmsprop": _slots(1),
    "rprop": _slots(2),
    "sgd": _slots(1),  # with momentum
    "sam": _slots(1),  # around SGD with momentum; its copy of the weights is no state
    "asam": _slots(1),
    "lookahead": _slots(3),  # around AdamW
    "shampoo": _shampoo,
    "signum": _slots(1),
    "soap": _soap,
}


def state_elements(optimizer: Any, group: Mapping[str, Any], shape: Shape) -> float:
    """Elements of state for a tensor of this shape, for an optimizer that does not declare its slots.

    Args:
        optimizer: an optimizer, a class, or a name.
        group: the tensor's group; `momentum` of 0 means no buffer.
    """
    name = optimizer if isinstance(optimizer, str) else getattr(optimizer, "__name__", type(optimizer).__name__)
    defaults = {} if isinstance(optimizer, type) else getattr(optimizer, "defaults", {})
    settings = {**defaults, **group}
    folded = name.lower().replace("-", "").replace("_", "")
    if folded not in STATE:
        names = dict.fromkeys([*STATE, *map(str.lower, TABLE)])
        raise UsageError(f"the size of the state of {shown(name)} is not known: {nearest(name, names)}")
    if folded in ("sgd", "rmsprop") and "momentum" in settings:
        own = 0 if folded == "sgd" else 1 + bool(settings.get("centered"))
        return (own + bool(settings["momentum"])) * math.prod(shape)
    if folded == "lbfgs" and "history_size" in settings:
        return (2 * settings["history_size"] + 2) * math.prod(shape)
    return STATE[folded](shape) + (math.prod(shape) if settings.get("amsgrad") else 0)


def tensor_state_bytes(given: Any, group: Mapping[str, Any], tensor: torch.Tensor, state: str) -> float:
    """Bytes of state of an optimizer (instance, class or name) for a tensor of a group."""
    optimizer: Any = (known(given) or given) if isinstance(given, str) else given
    if hasattr(optimizer, "signatures"):
        return _declared_bytes(optimizer, group, tensor, state)
    if wraps_another(optimizer):  # one around another
        copies = optimizer.copies * of_shape("fp64" if tensor.dtype == torch.float64 else "fp32", tensor.shape)
        own = not isinstance(given, (str, type))
        inside = optimizer.base if own else find(optimizer.facts.compare_options["base"])
        return tensor_state_bytes(inside, group, tensor, state) + copies
    size = PER_ELEMENT["fp64" if tensor.dtype == torch.float64 else state]
    return state_elements(optimizer, group, tuple(tensor.shape)) * size


def _declared_bytes(optimizer: Any, group: Mapping[str, Any], tensor: torch.Tensor, state: str) -> int:
    """Bytes of state of an optimizer of this package. A class is assumed to have the settings of `stepwell compare`
    (SGD with momentum), else its defaults."""
    if isinstance(optimizer, type):
        cls: Any = optimizer
        given = inspect.signature(cls.__init__).parameters.values()
        settings = {p.name: p.default for p in given if p.default is not p.empty} | dict(cls.facts.compare_options)
    else:
        cls, settings = type(optimizer), dict(optimizer.defaults)
    found = {"weights": "native", **cls.group_for(settings, group, tensor), "state": state}
    signature = cls.signatures[cls.method_of(found, tensor)]
    return of_tensor(signature, found, tensor.shape, formats.NAMES[tensor.dtype])


@dataclass(frozen=True)
class Forecast:
    """Memory of a training run in bytes, by part.

    Args:
        weights: bytes of all parameters; `frozen`: bytes of those that are not trained.
        buffers: bytes of running statistics and other buffers.
        gradients, state: bytes for the trained parameters.
        averages: bytes of averaged copies of the trained weights (EMA, SWA).
        available: bytes free on the device now, or None if unknown.
        where: the device in words.
    """

    weights: int
    frozen: int
    buffers: int
    gradients: int
    state: int
    averages: int
    available: int | None = None
    where: str = ""

    @property
    def total(self) -> int:
        return self.weights + self.buffers + self.gradients + self.state + self.averages

    @property
    def left(self) -> int | None:
        """Bytes left for activations; None if the free memory of the device is not known."""
        return None if self.available is None else self.available - self.total

    @property
    def fits(self) -> bool | None:
        """Whether the run fits without activations."""
        return None if self.left is None else self.left >= 0

    def __str__(self) -> str:
        rows = [("weights", self.weights), ("gradients", self.gradients), ("optimizer state", self.state)]
        rows += [(name, size) for name, size in (("averages", self.averages), ("buffers", self.buffers)) if size]
        rows.append(("together", self.total))
        if self.available is not None:
            rows.append((f"{self.where or 'the device'} has", self.available))
        wide = max(len(name) for name, _ in rows)
        lines = [f"{name:<{wide}}  {bytes_text(size):>9}" for name, size in rows]
        if self.frozen:
            lines[0] += f"  ({bytes_text(self.frozen)} of them frozen)"
        if self.left is None:
            lines.append("activations are not included: they depend on the batch, so measure one step")
        elif self.left < 0:
            lines.append(f"does not fit: {bytes_text(-self.left)} too much, before any activation")
        else:
            lines.append(
                f"{bytes_text(self.left)} are left for activations, which depend on the batch: measure one step"
            )
        return "\n".join(lines)


def forecast(
    groups: Any,
    *,
    optimizer: Any = "adamw",
    state: str = "fp32",
    averages: int = 0,
    buffers: Iterable[torch.Tensor] = (),
    available: int | None = None,
    where: str = "",
) -> Forecast:
    """The memory that training needs, without activations.

    Weights and gradients have the dtype of the parameters; the optimizer state has format `state` (wider for fp64
    parameters if the optimizer keeps it wider). Temporary memory of a step is not counted: an optimizer of this package
    needs none.

    Args:
        groups: the result of `by_role`, `by_layer`, `by_pattern` or `muon`.
        optimizer: a class, an optimizer or a name; groups with their own optimizer (Muon's split) use that.
        state: format of the state: fp32, bf16, int8, int4.
        averages: number of averaged copies of the weights, at least 0.
        buffers: `model.buffers()`.
        available: bytes that the device has free (`device_memory`).
        where: the device in words.

    >>> forecast(by_role(model), optimizer="lion", available=24 * 2**30).fits
    True

    Raises UsageError for an unknown optimizer or format.
    """
    check_groups("forecast", groups)
    check_state("forecast", state)
    check_optimizer("forecast", optimizer)
    averages = whole("forecast", "averages", averages)
    available = None if available is None else whole("forecast", "available", available, do="bytes, or None")
    where = (
        where
        if isinstance(where, str) and not where
        else text("forecast", "where", where, "a str, the device in words")
    )
    held = items("forecast", "buffers", buffers, "tensors, as model.buffers()")
    if not all(isinstance(tensor, torch.Tensor) for tensor in held):
        raise refusal("forecast", "buffers", buffers, "tensors, as model.buffers()")
    members = list(groups.members)
    trained = {id(tensor) for group in groups for tensor in group["params"] if tensor.requires_grad}
    state_bytes = 0.0
    for group, own in zip(groups, groups.optimizers, strict=True):
        state_bytes += group_state_bytes(group, optimizer if own is None else own, state)
    weights = sum(_bytes(m.tensor) for m in members)
    live = sum(_bytes(m.tensor) for m in members if id(m.tensor) in trained)
    return Forecast(
        weights=weights,
        frozen=weights - live,
        buffers=sum(_bytes(tensor) for tensor in held),
        gradients=live,
        state=round(state_bytes),
        averages=averages * live,
        available=available,
        where=where,
    )


def group_state_bytes(group: Mapping[str, Any], optimizer: Any, state: str = "fp32") -> float:
    """Bytes of state of `optimizer` for a group; frozen tensors have no state."""
    return sum(tensor_state_bytes(optimizer, group, one, state) for one in group["params"] if one.requires_grad)


def check_groups(owner: str, groups: Any) -> None:
    """Raise UsageError for groups that are not a `Groups`."""
    if not (isinstance(groups, list) and hasattr(groups, "members") and hasattr(groups, "optimizers")):
        raise refusal(owner, "groups", groups, "the result of by_role, by_layer, by_pattern or muon of stepwell.groups")


def check_state(owner: str, state: Any) -> None:
    """Raise UsageError for an unknown format of the state."""
    if not isinstance(state, str) or state not in PER_ELEMENT:
        raise UsageError(f"{owner}: state={shown(state)}: {nearest(state, PER_ELEMENT)}")


def check_optimizer(owner: str, optimizer: Any) -> None:
    """Raise UsageError unless the value is an optimizer, or the class or name of an optimizer."""
    is_class = isinstance(optimizer, type) and issubclass(optimizer, torch.optim.Optimizer)
    if not (is_class or isinstance(optimizer, (str, torch.optim.Optimizer))):
        raise refusal(owner, "optimizer", optimizer, "the name of an optimizer, its class, or an optimizer")


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def device_memory(device: str | torch.device = "cpu") -> tuple[int | None, str]:
    """Bytes free on a device now, and the device in words; None if the free memory is not known.

    >>> free, where = device_memory("cpu")
    """
    try:
        wanted = torch.device(device if isinstance(device, torch.device) else text("device_memory", "device", device))
    except (RuntimeError, UsageError):
        raise UsageError(f"unknown device {shown(device)}; it must be cpu, cuda, cuda:1 or mps") from None
    if wanted.type == "cuda":
        if not torch.cuda.is_available():
            raise UsageError(f"device '{device}': this machine has no CUDA device; use --device cpu")
        if wanted.index is not None and wanted.index >= torch.cuda.device_count():
            raise UsageError(
                f"device '{device}': this machine has {torch.cuda.device_count()} CUDA devices, counted from 0"
            )
        return torch.cuda.mem_get_info(wanted)[0], torch.cuda.get_device_name(wanted)
    if wanted.type == "cpu":
        return _free_ram(), "this machine"
    return None, str(wanted)


def _free_ram() -> int | None:
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def bytes_text(size: float) -> str:
    """A readable size, in powers of 1024: 4.6 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(size) < 1024 or unit == "TiB":
            return (
                f"{size:.0f} {unit}" if unit == "B" else f"{size:.3g} {unit}" if size < 1000 else f"{size:.0f} {unit}"
            )
        size /= 1024
    raise AssertionError
