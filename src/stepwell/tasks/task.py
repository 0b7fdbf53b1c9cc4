"""The definition of a task: a small real training problem with data, model, loss, a metric and a target."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stepwell.anatomy.modes import evaluating, put_into_training
from stepwell.arguments import MOST, is_finite_number, plain_number, sequence, text
from stepwell.errors import UsageError, printable, shown
from stepwell.streams import endless

Batch = Any  # whatever the task's loss understands; usually a tuple of tensors

NAME = 100  # characters of a task's name in a message
PASS_STRIDE = 100_003  # a prime far above any number of seeds, so that (seed, pass) pairs do not meet


@dataclass(frozen=True)
class Metric:
    """The number by which training runs are compared.

    Attributes:
        name: name with unit, as on an axis: `"held-out accuracy"`, `"held-out loss, nats per byte"`.
        direction: `"max"` if higher is better, `"min"` if lower is better.
        evaluate: model -> number. Called in evaluation mode and without gradients; afterwards the mode of each module
            is restored.

    >>> Metric("error", "min", lambda model: 0.0).better(0.1, 0.2)
    True
    """

    name: str
    direction: Literal["min", "max"]
    evaluate: Callable[[nn.Module], float]

    def __post_init__(self) -> None:
        if not isinstance(self.direction, str) or self.direction not in ("min", "max"):
            raise UsageError(f"metric {shown(self.name)}: direction={shown(self.direction)}; it must be 'min' or 'max'")

    def better(self, one: float, other: float) -> bool:
        """Whether `one` is strictly better than `other`."""
        return one > other if self.direction == "max" else one < other

    def reached(self, value: float, target: float) -> bool:
        """Whether `value` is as good as `target`."""
        return value >= target if self.direction == "max" else value <= target


@dataclass(frozen=True)
class Surface:
    """The height of a two-parameter task over a plane, for plots of the path.

    Attributes:
        height: (x [..], y [..]) -> [..], elementwise on tensors.
        x, y: the visible window, (low, high) each.
        minima: the known global minima, (x, y) each.
        log: whether the logarithm of the height shows the valley better.
    """

    height: Callable[[Tensor, Tensor], Tensor]
    x: tuple[float, float]
    y: tuple[float, float]
    minima: tuple[tuple[float, float], ...]
    log: bool = False


@dataclass(frozen=True)
class Task:
    """A small training problem. All randomness follows from the given seed.

    Attributes:
        name: name in `stepwell compare`. summary: one line for lists.
        family: `"cnn"`, `"transformer"`, `"toy"`, or another word; chooses the learning-rate range of each
            optimizer (another word takes its general range).
        model: seed -> module with the initial weights. torch is seeded before the call.
        batches: seed -> iterable of batches, one pass or endless. After a pass, `batches` is called again with
            another seed made from the first, so a function that shuffles by its seed reshuffles each epoch.
        loss: (model, batch) -> scalar tensor to be minimized. The model is in training mode.
        metric: the metric to compare, see `Metric`.
        steps: optimizer steps in a run, the default budget, >= 1.
        target: the metric value that counts as solved, or None.
        batch_size: examples in a batch, for the report; None if that has no meaning.
        evaluations: number of evaluations of the metric in a run, besides the start, >= 1.
        surface: only for two-parameter tasks: the contours behind the path.
        about: facts for the report (data set, split, sizes), name -> text.

    Example: `examples/my_task.py`.
    """

    name: str
    summary: str
    family: str
    model: Callable[[int], nn.Module]
    batches: Callable[[int], Iterable[Batch]]
    loss: Callable[[nn.Module, Batch], Tensor]
    metric: Metric
    steps: int
    target: float | None = None
    batch_size: int | None = None
    evaluations: int = 20
    surface: Surface | None = None
    about: Mapping[str, str] = field(default_factory=dict)

    def build(self, seed: int) -> nn.Module:
        """The model of this seed, even if its builder uses torch's global generator."""
        torch.manual_seed(seed)
        return self.model(seed)

    def stream(self, seed: int) -> Iterator[Batch]:
        """Endless batches: pass after pass. Raises UsageError if a pass holds no batch."""
        return endless(
            self.batches,
            seed,
            PASS_STRIDE,
            f"task '{self.name}': batches({seed}) gives no batch; it must give at least one",
        )

    def measure(self, model: nn.Module) -> float:
        """The current metric of the model; may be NaN or infinite. The mode of every module is restored."""
        with evaluating(model), torch.no_grad():
            return float(self.metric.evaluate(model))


def probe(task: Task) -> None:
    """Run one batch through a task, to find faults before a long comparison begins.

    Raises UsageError, one line, for the first fault: settings out of range, a model that is not a module or has no
    trainable parameters, no batches, a loss that is not one finite number or does not depend on a parameter, a metric
    that is not a number.
    """

    if not isinstance(task, Task):
        raise UsageError(f"probe: task={shown(task)}; it must be a stepwell.tasks.Task")
    name = printable(task.name)[:NAME] if isinstance(task.name, str) else shown(task.name)

    def fault(said: str) -> UsageError:
        return UsageError(f"task '{name}': {said}")

    for label in ("name", "summary", "family"):
        _check_text(fault, label, getattr(task, label), empty=label != "name")
    for label in ("model", "batches", "loss"):
        if not callable(getattr(task, label)):
            raise fault(f"{label} is a {type(getattr(task, label)).__name__}; it must be a function")
    if not isinstance(task.metric, Metric):
        raise fault(f"metric is a {type(task.metric).__name__}; it must be a stepwell.tasks.Metric")
    _check_text(fault, "metric.name", task.metric.name)
    if not callable(task.metric.evaluate):
        raise fault(f"metric.evaluate={shown(task.metric.evaluate)}; it must be a function")
    for label in ("steps", "evaluations"):
        if not _is_count(getattr(task, label)):
            raise fault(f"{label}={shown(getattr(task, label))}; it must be a whole number of at least 1")
    if task.target is not None and not is_finite_number(task.target):
        raise fault(f"target={shown(task.target)}; it must be a finite number or None")
    if task.batch_size is not None and not _is_count(task.batch_size):
        raise fault(f"batch_size={shown(task.batch_size)}; it must be a whole number of at least 1, or None")
    if not isinstance(task.about, Mapping):
        raise fault(f"about={shown(task.about)}; it must be a dict of str")
    for key, value in task.about.items():
        _check_text(fault, "a name in about", key)
        _check_text(fault, f"about {key!r}", value, empty=True)
    if task.surface is not None and not isinstance(task.surface, Surface):
        raise fault(f"surface={shown(task.surface)}; it must be a stepwell.tasks.Surface or None")

    def called(what: str, run: Callable[[], Any]) -> Any:
        try:
            return run()
        except UsageError:
            raise
        except Exception as error:
            raise fault(f"{what} fails: {last_line(error)}") from error
        except SystemExit as error:
            raise fault(f"{what} fails: it calls sys.exit({shown(error.code)})") from error

    model = called("model(0)", lambda: task.build(0))
    if not isinstance(model, nn.Module):
        raise fault(f"model(0) is a {type(model).__name__}; it must be a torch.nn.Module")
    trainable = [p for p in model.parameters() if p.requires_grad]
    if not trainable:
        raise fault("model(0) has no trainable parameters")
    if task.surface is not None:
        if trainable[0].numel() != 2:
            raise fault(
                f"surface needs a first parameter of two elements; that of model(0) has {trainable[0].numel()} elements"
            )
        _check_surface(fault, called, task.surface)
    batch = called("batches(0)", lambda: next(task.stream(0)))
    put_into_training(model)
    loss = called("loss(model, batch)", lambda: task.loss(model, batch))
    if not isinstance(loss, Tensor):
        raise fault(f"loss(model, batch) is a {type(loss).__name__}; it must be a scalar tensor")
    if loss.is_complex():
        raise fault(f"loss(model, batch) is complex, {loss.dtype}; it must be real, such as loss.abs()")
    if loss.numel() != 1:
        raise fault(f"loss(model, batch) has shape {tuple(loss.shape)}; it must be a scalar, such as loss.mean()")
    first = called("loss(model, batch).item()", loss.item)
    if not math.isfinite(first):
        raise fault(f"loss(model, batch) is {first} before the first step")
    if not loss.requires_grad:
        raise fault("loss(model, batch) has no gradient; is it detached, or computed without the model?")
    called("the backward pass", loss.backward)
    if all(p.grad is None for p in trainable):
        raise fault("no trainable parameter gets a gradient from loss(model, batch)")
    value = called("metric.evaluate(model)", lambda: _evaluated(task, model))
    if not _is_number(value):
        raise fault(f"metric.evaluate(model) gives {shown(value)}; it must be a finite number, such as tensor.item()")


def _evaluated(task: Task, model: nn.Module) -> Any:
    with evaluating(model), torch.no_grad():
        value = task.metric.evaluate(model)
    if isinstance(value, Tensor) and value.numel() == 1:  # forgiven: a tensor of one element is a number
        return float(value)
    return value


def _is_number(value: Any) -> bool:
    try:
        return not isinstance(value, str | bytes | bool) and math.isfinite(float(value))
    except Exception:
        return False


def _is_count(value: Any) -> bool:
    plain = plain_number(value)
    return type(plain) is int and 1 <= plain <= MOST


def _check_surface(fault: Callable[[str], UsageError], called: Callable[..., Any], surface: Surface) -> None:
    try:
        minima = sequence("", "surface.minima", surface.minima, "a list of points")
    except UsageError:
        raise fault(f"surface.minima={shown(surface.minima)}; it must be a list of points (x, y)") from None
    for axis, window in (("x", surface.x), ("y", surface.y), *(("minima", at) for at in minima)):
        if not isinstance(window, (tuple, list)) or len(window) != 2 or not all(map(is_finite_number, window)):
            raise fault(f"surface.{axis}={shown(window)}; it must be two finite numbers")
        if axis != "minima" and window[0] >= window[1]:
            raise fault(f"surface.{axis}={shown(window)}; the first number must be below the second")
    ends = [torch.linspace(*window, 3) for window in (surface.x, surface.y)]
    height = called("surface.height(x, y)", lambda: surface.height(ends[0][None, :], ends[1][:, None]))
    if not isinstance(height, Tensor) or height.shape != (3, 3) or height.is_complex():
        raise fault(f"surface.height(x [1, 3], y [3, 1]) is {shown(height)}; it must be a real tensor [3, 3]")


def _check_text(fault: Callable[[str], UsageError], label: str, value: Any, empty: bool = False) -> None:
    """Raise the fault unless `value` is text that can be written to a file and a terminal."""
    try:
        if not (empty and value == ""):
            text("", label, value)
    except Exception:
        raise fault(f"{label}={shown(value)}; it must be a {'' if empty else 'nonempty '}str") from None


def last_line(error: BaseException) -> str:
    """An exception in one line: its type and the last line of its text."""
    try:
        said = str(error).strip().splitlines()
    except Exception:  # an exception of the user's own, whose text cannot be made
        said = []
    return f"{type(error).__name__}: {printable(said[-1])}" if said else type(error).__name__
