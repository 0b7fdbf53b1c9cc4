"""The learning-rate range test: train briefly while the rate rises, restore everything, and read the curve.

Reference: Smith, "Cyclical learning rates for training neural networks", arXiv 1506.01186, section 3.3.
"""

from __future__ import annotations

import contextlib
import functools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stepwell.anatomy.modes import put_into_training
from stepwell.arguments import flag, fraction, number, plain_number, refusal, sequence, whole
from stepwell.engine.update import innermost, needs_closure
from stepwell.errors import UsageError, shown, unknown
from stepwell.finder import data
from stepwell.finder.attempts import Attempt
from stepwell.finder.processes import Together, together_with
from stepwell.finder.progress import Progress, bar
from stepwell.finder.result import FoundLR, after, found
from stepwell.finder.rules import RULES, debiased
from stepwell.finder.snapshot import Snapshot
from stepwell.optimizers import TABLE, find
from stepwell.schedules.written import unnoticed
from stepwell.step import Step
from stepwell.step.done import Done
from stepwell.step.rehearsal import Rehearsal

LOW, HIGH = 1e-6, 10.0  # where no facts are known: from far too small for any to too large for most
MANY, FURTHEST = 1_000_000, 1e100  # more updates, and a wider range, are a mistake
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
    attempts: int = 1,
    accumulate: int | None = None,
    scaler: Any = None,
    clip_norm: float | None = None,
    also: Sequence[Any] = (),
    seed: int = 0,
    processes: bool | None = None,
    progress: bool | None = None,
) -> FoundLR:
    """Find a learning rate: the peak for a schedule of warmup and decay.

    Trains with a rate that grows exponentially, lr_t = low * (high / low)^(t / (n - 1)), until the smoothed loss is
    `stop` times the drop above its best, or not finite. This is repeated for each order of the data, from the same
    weights. Afterwards everything is restored bit for bit, even after Ctrl-C or an exception: weights, buffers,
    gradients, training modes, the optimizer's state and groups, scaler, and the random generators; also the numbers,
    lists and generators that modules, the loader, its samplers and its data set have as attributes. The loader is read
    with a separate iterator.

    Args:
        model: the trained module, or a list of modules. A model that is entirely in evaluation mode is put into
            training mode; if only a part is in evaluation mode, as a frozen batch norm, all modes are kept.
        optimizer: an optimizer of stepwell or torch; or your `Step`, whose clipping, accumulation and scaler are then
            used (its schedule and averages are not advanced). The groups keep the ratios of their rates (of
            `initial_lr`, if a scheduler set it); the answer is the rate of the first group.
        batches: a loader or another iterable that can be read again, or a function seed -> iterable. A list is shuffled
            for each order; a loader is reshuffled if it shuffles.
        loss: (model, batch) -> scalar; may use `torch.autocast`. With several models the first is passed. For a Step
            whose estimator draws labels (Sophia): -> (scalar, logits).
        train_step: instead of `loss`: a function batch -> loss that trains on one batch (several losses, GANs, your own
            AMP). It must use `optimizer`, whose rate is set before each call. List in `also` whatever else it changes.
        low, high: the range of rates, 0 < low < high. The default is 1e-6 to 10; for the optimizers of stepwell, 10
            times wider than their usual range on both sides.
        iterations: updates in total (of the first attempt), at least 10 for each order.
        orders: number of orders of the data, at least 1. The spread of their answers shows how reliable an answer is.
        rule: the rule for the suggestion: between (half way from the steepest to the lowest point), steep, valley,
            slide or minimum. The result contains the answers of all rules.
        beta: decay of the running average that decides when to stop, in [0, 1).
        stop: how far above its best the smoothed loss may rise, above 1: in units of the best loss, or of the drop so
            far if the drop is larger (a loss may be 0 or negative).
        attempts: the maximal number of attempts, from 1 to 9. After an attempt without an answer, depending on the
            reason, the next starts lower, ends higher, or uses more updates and orders. Each attempt takes three times
            the updates of the previous attempt. A given low or high is kept.
        accumulate: micro-batches per update; by default that of the Step, or 1.
        scaler: a `torch.amp.GradScaler`. clip_norm: as in `Step`. Neither with a Step, which has its own.
        also: further objects to restore: schedulers, modules, optimizers, anything with `state_dict` and
            `load_state_dict`.
        seed: seed of the orders and, during the sweep, of all global generators.
        processes: whether all processes of torch.distributed sweep together; each must then call find_lr. All processes
            get the same answer, from the mean of their losses, and stop at the same update. True by default for a
            distributed model (DDP, FSDP). With a plain model, the call waits 30 s for the other processes, and raises
            UsageError if they do not call find_lr. False: only this process.
        progress: whether to show a progress bar; by default on a terminal.

    For fine-tuning the answer is an upper bound: the rate at which a curve falls fastest is often 10 to 100 times
    too large for pretrained weights.

    >>> found = find_lr(model, optimizer, loader, lambda model, batch: loss_fn(model(batch[0]), batch[1]))
    >>> found.suggestion  # doctest: +SKIP
    0.0031
    >>> found.plot()

    Raises UsageError for bad arguments and for a loss that is not a scalar. A curve without an answer raises no error:
    `suggestion` is None and `reasons` say why.
    """
    modules, chosen = _modules(model), _optimizer(optimizer)
    spread = [*modules, *([optimizer.model] if isinstance(optimizer, Step) and optimizer.model is not None else [])]
    together = together_with(spread, chosen, processes)

    def prepared() -> tuple[Sweep, Snapshot]:
        sweep = _checked(
            modules, optimizer, chosen, batches, loss, train_step, accumulate, scaler, clip_norm, low, high,
            iterations, orders, stop, attempts, together,
        )  # fmt: skip
        if not isinstance(rule, str) or rule not in RULES:
            raise unknown("rule", rule, RULES)
        fraction("find_lr", "beta", beta)
        _checked_seed(seed)
        if not isinstance(also, (list, tuple)):
            raise UsageError(f"find_lr: also is a {type(also).__name__}; it must be a list, as [scheduler]")
        if progress is not None:
            flag("find_lr", "progress", progress)
        sources = data.generators_of(batches), data.sources_of(batches)
        return sweep, Snapshot(sweep.modules, sweep.optimizer, sweep.scaler, also, *sources)

    sweep, snapshot = together.all_or_none(prepared)
    seed, beta = int(seed), float(beta)
    together.check_same(
        {"low": sweep.attempt.low, "high": sweep.attempt.high, "iterations": iterations, "orders": orders,
         "attempts": attempts, "stop": stop, "beta": beta, "rule": list(RULES).index(rule),
         "accumulate": sweep.accumulate,
         "number of groups": len(sweep.ratios), "ratios of the groups": sum(sweep.ratios)}
    )  # fmt: skip
    shows = progress if together.lead else False
    tried: list[str] = []
    with unnoticed(chosen), contextlib.ExitStack() as putting_back:
        putting_back.callback(snapshot.close)
        putting_back.callback(sweep.close)
        while True:
            attempt = sweep.attempt
            curves: list[list[float]] = []
            with bar(attempt.orders * attempt.points, shows) as advance:
                for order in range(attempt.orders):
                    snapshot.restore()
                    _seed(seed + order)
                    told = _after(order * attempt.points, advance)
                    curves.append(sweep.run(data.stream(batches, seed + order), beta, told))
            result = found(attempt.lrs, curves, rule=rule, ratios=sweep.ratios)
            if result.suggestion is not None or len(tried) + 1 == int(attempts):
                return after(result, tried)
            tried.append(f"{attempt}: {result.reasons[0]}")
            sweep.attempt = attempt.after(result)


@dataclass
class Sweep:
    """One training run over the range of rates, which can be repeated.

    `train` takes the batches of one update from a stream and returns the loss; `begin` is called before each run, and
    `close` after all runs.
    """

    modules: list[nn.Module]
    optimizer: torch.optim.Optimizer
    scaler: Any
    attempt: Attempt
    ratios: list[float]  # of each group's rate to the one that is found
    train: Callable[[Iterator[Any]], float]
    begin: Callable[[], None]
    close: Callable[[], None]
    accumulate: int = 1

    def run(self, batches: Iterator[Any], beta: float, advance: Progress) -> list[float]:
        """The losses, one for each rate until the sweep stopped; the last may be not finite."""
        for module in self.modules:
            put_into_training(module)
        self.begin()
        losses: list[float] = []
        for lr in self.attempt.lrs:
            for group, ratio in zip(self.optimizer.param_groups, self.ratios, strict=True):
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(lr * ratio)
                else:
                    group["lr"] = lr * ratio
            losses.append(self.train(batches))
            advance(len(losses))
            if not math.isfinite(losses[-1]) or _diverged(debiased(losses, beta).tolist(), self.attempt.stop):
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


def _modules(model: Any) -> list[nn.Module]:
    modules = [model] if isinstance(model, nn.Module) else []
    with contextlib.suppress(UsageError):
        modules = modules or sequence("find_lr", "model", model, "a list")
    if not modules or not all(isinstance(module, nn.Module) for module in modules):
        raise UsageError(f"find_lr: model={shown(model)}; it must be a torch.nn.Module or a list of modules")
    return modules


def _optimizer(given: Any) -> torch.optim.Optimizer:
    optimizer = given.optimizer if isinstance(given, Step) else given
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise UsageError(
            f"find_lr: optimizer is a {type(given).__name__}; it must be a torch.optim.Optimizer or a Step"
        )
    return optimizer


def _checked_seed(seed: Any) -> int:
    plain = plain_number(seed)
    if type(plain) is not int or abs(plain) >= 2**32:
        raise refusal("find_lr", "seed", seed, "a whole number below 2^32")
    return plain


def _checked(
    modules: list[nn.Module],
    given: Any,
    optimizer: torch.optim.Optimizer,
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
    attempts: Any,
    together: Together,
) -> Sweep:
    """The sweep that the arguments describe, or UsageError. Nothing is changed."""
    if (loss is None) == (train_step is None):
        raise UsageError("find_lr: give either loss, a function (model, batch) -> scalar, or train_step, batch -> loss")
    for name, function in (("loss", loss), ("train_step", train_step)):
        if function is not None and not callable(function):
            raise UsageError(f"find_lr: {name} is a {type(function).__name__}; it must be a function")
    step = given if isinstance(given, Step) else None
    own = {"accumulate": accumulate, "scaler": scaler, "clip_norm": clip_norm}
    doubled = [name for name, value in own.items() if value is not None]
    if doubled and (step is not None or train_step is not None):
        owner = "because the Step has its own" if step is not None else "because train_step does this itself"
        raise UsageError(f"find_lr: {doubled[0]} has no effect, {owner}; omit it")
    if step is not None and not step.is_between_updates:
        raise UsageError(
            "find_lr: the Step is within an accumulation or inside averaged(); call find_lr after an update"
        )
    iterations = whole("find_lr", "iterations", iterations, least=10, most=MANY)
    orders = whole("find_lr", "orders", orders, least=1)
    if iterations // orders < 10:
        raise UsageError(
            f"find_lr: iterations={iterations} gives {iterations // orders} updates for each of orders={orders}; "
            "it must be at least 10 for each order"
        )
    stop = float(number("find_lr", "stop", stop, above=1))
    if accumulate is not None:
        accumulate = whole("find_lr", "accumulate", accumulate, least=1)
        if accumulate > MANY:
            raise refusal("find_lr", "accumulate", accumulate, f"a whole number from 1 to {MANY}")
    if clip_norm is not None:
        clip_norm = float(number("find_lr", "clip_norm", clip_norm, above=0))
    whole("find_lr", "attempts", attempts, least=1, most=9)
    lowest, highest = _range(optimizer, low, high)
    attempt = Attempt(lowest, highest, iterations // orders, orders, stop, low is not None, high is not None)
    bases = [_base(position, group) for position, group in enumerate(optimizer.param_groups)]
    reference = next((base for base in bases if base > 0), None)
    if reference is None:
        raise UsageError("find_lr: every group of the optimizer has lr 0; set the ratios of the rates in the groups")
    ratios = [base / reference for base in bases]
    scaler = step.scaler if step is not None else scaler
    if train_step is not None:
        data.check(batches, 1)

        def trained(stream: Iterator[Any]) -> float:
            batch = together.all_or_none(lambda: next(stream))
            return together.mean(lambda: _number(train_step(batch)))

        return Sweep(
            modules, optimizer, scaler, attempt, ratios, trained, lambda: _drop_gradients(optimizer), lambda: None
        )  # fmt: skip
    if step is not None:
        inner = Rehearsal.of(step)
    else:
        inner = Rehearsal(
            optimizer, accumulate=accumulate or 1, scaler=scaler, model=modules[0], clip_norm=clip_norm
        )  # fmt: skip
    data.check(batches, inner.accumulate)

    def forward(batch: Any) -> tuple[Any, Any]:
        result = loss(modules[0], batch)
        return result if isinstance(result, tuple) and len(result) == 2 else (result, None)

    def reached(done: Done) -> float:
        assert done.loss is not None
        return done.loss

    def train(stream: Iterator[Any]) -> float:
        # Fetching and the forward pass are agreed on before the backward pass, in which processes wait for one another.
        for left in reversed(range(inner.accumulate)):
            batch = together.all_or_none(lambda: next(stream))
            if needs_closure(optimizer):
                work = functools.partial(inner.closure, functools.partial(loss, modules[0], batch))
            else:
                value, logits = together.all_or_none(functools.partial(forward, batch))
                work = functools.partial(inner, value, logits=logits)
            if left:
                work()
        return together.mean(lambda: reached(work()))

    return Sweep(
        modules, optimizer, inner.scaler, attempt, ratios, train, inner.restart, inner.leave, inner.accumulate
    )  # fmt: skip


def _drop_gradients(optimizer: torch.optim.Optimizer) -> None:
    for group in optimizer.param_groups:
        for tensor in group["params"]:
            tensor.grad = None


def _number(value: Any) -> float:
    """The loss from `train_step`; nan and inf are allowed."""
    with contextlib.suppress(Exception):  # several elements, no values
        value = value.item() if isinstance(value, Tensor) else value
    plain = plain_number(value)
    if plain is None:
        raise UsageError(f"find_lr: train_step returned {shown(value)}; it must return the loss of the batch, a number")
    return float(plain)


def _base(position: int, group: dict[str, Any]) -> float:
    """The rate of a group before any schedule."""
    name = "initial_lr" if "initial_lr" in group else "lr"
    value = group.get(name)
    plain = plain_number(value.squeeze() if isinstance(value, Tensor) else value)
    if plain is None or not 0 <= plain < math.inf:
        raise UsageError(
            f"find_lr: {name} of group {position} of the optimizer is {shown(value)}; it must be a finite number, "
            "at least 0"
        )
    return float(plain)


def _range(optimizer: torch.optim.Optimizer, low: Any, high: Any) -> tuple[float, float]:
    usual = (LOW, HIGH)
    name = type(innermost(optimizer)).__name__  # a wrapper has the rates of what is inside
    if name in TABLE:  # torch's of the same name as well
        least, most = find(name).facts.lr_range()
        usual = (least / BEYOND, most * BEYOND)
    low = usual[0] if low is None else number("find_lr", "low", low, above=0)
    high = usual[1] if high is None else number("find_lr", "high", high, above=0)
    if low >= high:
        raise UsageError(f"find_lr: low={low:g}; it must be below high={high:g}")
    if high > FURTHEST * low:
        raise UsageError(f"find_lr: low={low:g} and high={high:g} are more than a factor of {FURTHEST:g} apart")
    return float(low), float(high)
