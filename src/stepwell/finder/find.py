"""The learning-rate range test: train a little while the rate rises, put everything back, read the curve.

Reference: Smith, "Cyclical learning rates for training neural networks", arXiv 1506.01186, section 3.3.
"""

from __future__ import annotations

import copy
import functools
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stepwell.engine.gradients import is_finite_number
from stepwell.errors import UsageError, unknown
from stepwell.finder import data
from stepwell.finder.found import FoundLR, found
from stepwell.finder.progress import Progress, bar
from stepwell.finder.rules import RULES, debiased
from stepwell.finder.snapshot import Snapshot
from stepwell.optimizers import TABLE, find
from stepwell.optimizers.stepping import innermost, needs_closure
from stepwell.step import Hutchinson, Step
from stepwell.step.estimators import receiver

LOW, HIGH = 1e-6, 10.0  # where no facts are known: from far too small for any to too large for most
BEYOND = 10  # how far the sweep goes beyond the usual range of an optimizer, on both sides


def find_lr(
    model: nn.Module | Sequence[nn.Module],
    optimizer: torch.optim.Optimizer | Step,
    batches: data.Batches,
    loss: Callable[[nn.Module, Any], Tensor] | None = None,
    *,
    train_step: Callable[[Any], Any] | None = None,
    low: float | None = None,
    high: float | None = None,
    iterations: int = 99,
    orders: int = 3,
    rule: str = "between",
    beta: float = 0.8,
    stop: float = 4.0,
    accumulate: int | None = None,
    scaler: Any = None,
    clip_norm: float | None = None,
    also: Sequence[Any] = (),
    seed: int = 0,
    progress: bool | None = None,
) -> FoundLR:
    """Find a learning rate: the peak for a schedule of warmup and decay.

    Trains with a rate that grows exponentially, lr_t = low * (high / low)^(t / (n - 1)), until the smoothed loss is
    `stop` times the drop above its best, or not finite; again for each order of the data, from the same weights. All
    is put back bit for bit afterwards, also after Ctrl-C and after an exception: weights, buffers, gradients, training
    modes, the optimizer's state and groups, scaler, and the random generators; also the numbers, lists and generators
    that modules, the loader, its samplers and its data set keep as attributes. The loader is read with an iterator of
    the finder's own.

    Args:
        model: what is trained, or several modules. It is put into training mode where it is not.
        optimizer: of stepwell or torch; or your `Step`, whose clipping, accumulation and scaler are then used (its
            schedule and averages rest). Its groups keep the ratios of their rates (`initial_lr` where a scheduler has
            put it); the rate that is found is the first group's.
        batches: a loader or another iterable that can be read again, or a function seed -> iterable. A list is shuffled
            for each order; a loader is, if it shuffles.
        loss: (model, batch) -> scalar; may use `torch.autocast`. With several models it gets the first. For a Step
            whose estimator draws labels (Sophia): -> (scalar, logits).
        train_step: instead of `loss`: batch -> loss, which trains on one batch all by itself (several losses, GANs,
            your own AMP). It must use `optimizer`, whose rate is set before each call. What it changes beside model and
            optimizer goes into `also`.
        low, high: the range of rates; 1e-6 to 10 by default, for the optimizers of stepwell 10 times wider than their
            usual range on both sides. 0 < low < high.
        iterations: updates in all, at least 10 for each order.
        orders: of the data, at least 1. The spread of their answers says how far to trust one.
        rule: which of the rules is the suggestion: between (half way from the steepest to the lowest point),
            steep, valley, slide or minimum. All are in the result.
        beta: of the running average that decides when to stop, in [0, 1).
        stop: how far above its best the smoothed loss may rise, above 1: in units of the best loss, or of the drop so
            far where that is larger (a loss may be 0 or negative).
        accumulate: micro-batches per update; the Step's, or 1.
        scaler: a `torch.amp.GradScaler`. clip_norm: as in `Step`. Both not with a Step, which has its own.
        also: what else must be put back: schedulers, modules, optimizers, anything with `state_dict` and
            `load_state_dict`.
        seed: of the orders and of all global generators while sweeping.
        progress: a bar on the terminal; by default where there is one.

    For fine-tuning take the answer as an upper bound: the rate at which a curve falls fastest is often 10 to 100 times
    too large for weights that are good already.

    >>> found = find_lr(model, optimizer, loader, lambda model, batch: loss_fn(model(batch[0]), batch[1]))
    >>> found.suggestion
    0.0031
    >>> found.plot()

    Raises UsageError for bad arguments and for a loss that is no scalar. A curve that gives no answer raises nothing:
    `suggestion` is None and `reasons` say why.
    """
    sweep = _checked(
        model, optimizer, batches, loss, train_step, accumulate, scaler, clip_norm, low, high, iterations, orders, stop
    )
    if rule not in RULES:
        raise unknown("rule", rule, RULES)
    if not is_finite_number(beta) or not 0 <= beta < 1:
        raise UsageError(f"find_lr: beta={beta!r}; it must be in [0, 1)")
    if not isinstance(seed, int) or isinstance(seed, bool) or abs(seed) >= 2**32:
        raise UsageError(f"find_lr: seed={seed!r}; it must be a whole number below 2^32")
    if not isinstance(also, (list, tuple)):
        raise UsageError(f"find_lr: also is a {type(also).__name__}; it must be a list, as [scheduler]")
    snapshot = Snapshot(
        sweep.modules, sweep.optimizer, sweep.scaler, also, data.generators_of(batches), data.sources_of(batches)
    )
    curves: list[list[float]] = []
    length = len(sweep.lrs)
    with bar(orders * length, progress) as advance:
        try:
            for order in range(orders):
                snapshot.restore()
                begun = order * length
                _seed(seed + order)
                curves.append(sweep.run(data.stream(batches, seed + order), beta, stop, _after(begun, advance)))
        finally:
            sweep.close()
            snapshot.close()
    return found(sweep.lrs, curves, rule=rule, ratios=sweep.ratios)


@dataclass
class Sweep:
    """One training run over the range of rates, to be repeated.

    `train` takes the batches of one update from a stream and returns its loss; `begin` and `close` stand before each
    run and after all.
    """

    modules: list[nn.Module]
    optimizer: torch.optim.Optimizer
    scaler: Any
    lrs: list[float]
    ratios: list[float]  # of each group's rate to the one that is found
    train: Callable[[Iterator[Any]], float]
    begin: Callable[[], None]
    close: Callable[[], None]

    def run(self, batches: Iterator[Any], beta: float, stop: float, advance: Progress) -> list[float]:
        """The losses, one for each rate until it was stopped; the last may be not finite."""
        for module in self.modules:
            module.train()
        self.begin()
        losses: list[float] = []
        for lr in self.lrs:
            for group, ratio in zip(self.optimizer.param_groups, self.ratios, strict=True):
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(lr * ratio)
                else:
                    group["lr"] = lr * ratio
            losses.append(self.train(batches))
            advance(len(losses))
            if not math.isfinite(losses[-1]) or _diverged(debiased(losses, beta).tolist(), stop):
                break
        return losses


def _diverged(averages: list[float], stop: float) -> bool:
    """Whether the last average is `stop` times the best, in units of the best loss or (if larger) of the drop."""
    best = min(averages)
    return averages[-1] - best > (stop - 1) * max(abs(best), averages[0] - best)


def _after(begun: int, advance: Progress) -> Progress:
    return lambda done: advance(begun + done)


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  # the global one is what a loader's transforms draw from
    torch.manual_seed(seed)


def _checked(
    model: Any,
    given: Any,
    batches: Any,
    loss: Any,
    train_step: Any,
    accumulate: Any,
    scaler: Any,
    clip_norm: Any,
    low: Any,
    high: Any,
    iterations: Any,
    orders: Any,
    stop: Any,
) -> Sweep:
    """The sweep that the arguments describe, or UsageError. Nothing is changed here."""
    modules = [model] if isinstance(model, nn.Module) else list(model) if isinstance(model, Iterable) else []
    if not modules or not all(isinstance(module, nn.Module) for module in modules):
        raise UsageError("find_lr: model must be a torch.nn.Module, or a list of them")
    if (loss is None) == (train_step is None):
        raise UsageError("find_lr: give either loss, a function (model, batch) -> scalar, or train_step, batch -> loss")
    for name, function in (("loss", loss), ("train_step", train_step)):
        if function is not None and not callable(function):
            raise UsageError(f"find_lr: {name} is a {type(function).__name__}; it must be a function")
    step = given if isinstance(given, Step) else None
    optimizer = step.optimizer if step is not None else given
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise UsageError(f"find_lr: optimizer is a {type(given).__name__}; pass a torch.optim.Optimizer or a Step")
    own = {"accumulate": accumulate, "scaler": scaler, "clip_norm": clip_norm}
    doubled = [name for name, value in own.items() if value is not None]
    if doubled and (step is not None or train_step is not None):
        owner = "the Step has its own" if step is not None else "train_step does that itself"
        raise UsageError(f"find_lr: {doubled[0]} has no effect here, {owner}; leave it out")
    if step is not None and (step.accumulated or step._swapped):
        raise UsageError("find_lr: the Step is within an accumulation or inside averaged(); call it after an update")
    for name, value, least in (("iterations", iterations, 10), ("orders", orders, 1)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UsageError(f"find_lr: {name}={value!r}; it must be a whole number of at least {least}")
    if iterations // orders < 10:
        raise UsageError(
            f"find_lr: iterations={iterations} are {iterations // orders} for each of orders={orders}; "
            "at least 10 are needed to see a curve"
        )
    if not is_finite_number(stop) or stop <= 1:
        raise UsageError(f"find_lr: stop={stop!r}; it must be above 1")
    low, high = _range(optimizer, low, high)
    bases = [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]
    reference = next((base for base in bases if base > 0), None)
    if reference is None:
        raise UsageError("find_lr: every group of the optimizer has lr 0; set the ratios that the groups shall keep")
    points = iterations // orders
    lrs = [low * (high / low) ** (t / (points - 1)) for t in range(points)]
    ratios = [base / reference for base in bases]
    scaler = step.scaler if step is not None else scaler
    if train_step is not None:
        data.check(batches, 1)
        return Sweep(
            modules, optimizer, scaler, lrs, ratios, lambda stream: _number(train_step(next(stream))),
            lambda: _drop_gradients(optimizer), lambda: None,
        )  # fmt: skip
    if step is not None:
        options = {"accumulate": step.accumulate, "scaler": step.scaler, "model": step.model}
    else:
        options = {"accumulate": accumulate or 1, "scaler": scaler, "model": modules[0], "clip_norm": clip_norm}
    if accumulate is not None:
        options["accumulate"] = accumulate
    if step is not None and step.estimator is not None:
        options["estimator"] = step.estimator.fresh()
    elif receiver(optimizer) is not None:
        options["estimator"] = Hutchinson()
    inner = Step(optimizer, clip=None if step is None else copy.deepcopy(step.clip), **options)
    kept = copy.deepcopy(inner.clip)
    data.check(batches, inner.accumulate)

    def begin() -> None:
        inner.clip = copy.deepcopy(kept)
        if inner.estimator is not None:
            inner.estimator.updates = 0
        inner._begin_anew()

    def train(stream: Iterator[Any]) -> float:
        for _ in range(inner.accumulate):
            batch = next(stream)
            if needs_closure(optimizer):
                done = inner.closure(functools.partial(loss, modules[0], batch))
            else:
                result = loss(modules[0], batch)
                value, logits = result if isinstance(result, tuple) else (result, None)
                done = inner(value, logits=logits)
        assert done.loss is not None
        return done.loss

    return Sweep(
        modules, optimizer, inner.scaler, lrs, ratios, train, begin, lambda: inner._sync.before(last=True)
    )  # fmt: skip


def _drop_gradients(optimizer: torch.optim.Optimizer) -> None:
    for group in optimizer.param_groups:
        for tensor in group["params"]:
            tensor.grad = None


def _number(value: Any) -> float:
    try:
        return value.item() if isinstance(value, Tensor) else float(value)
    except (TypeError, ValueError, RuntimeError):
        raise UsageError(f"find_lr: train_step returned {value!r:.80}; it must return the loss of its batch") from None


def _range(optimizer: torch.optim.Optimizer, low: Any, high: Any) -> tuple[float, float]:
    usual = (LOW, HIGH)
    name = type(innermost(optimizer)).__name__  # a wrapper has the rates of what is inside
    if name in TABLE:  # torch's of the same name as well
        least, most = find(name).facts.lr_range()
        usual = (least / BEYOND, most * BEYOND)
    low, high = usual[0] if low is None else low, usual[1] if high is None else high
    for name, value in (("low", low), ("high", high)):
        if not is_finite_number(value) or value <= 0:
            raise UsageError(f"find_lr: {name}={value!r}; it must be a finite number above 0")
    if low >= high:
        raise UsageError(f"find_lr: low={low:g} is not below high={high:g}")
    return float(low), float(high)
