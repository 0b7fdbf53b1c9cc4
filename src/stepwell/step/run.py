"""The parts of a Step, and their state between updates.

After an exception or an interrupt the run is before an update or after it, never in between. An interrupted call is
completed here, either on its own way out or by the next call.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stepwell.arguments import flag
from stepwell.engine.gradients import Factor
from stepwell.engine.reading import Reading
from stepwell.engine.update import hooked
from stepwell.errors import UsageError
from stepwell.schedules.apply import Schedules, put_back_if_refused
from stepwell.schedules.base import Schedule
from stepwell.schedules.plateau import Plateau, checked_plateau
from stepwell.step.accumulation import Shares, Weight, checked_accumulate
from stepwell.step.agreement import Agreement
from stepwell.step.attributes import Attribute, check_name
from stepwell.step.averages import Averages
from stepwell.step.averaging import Averaging, averages_from
from stepwell.step.backward import Backward
from stepwell.step.bound_schedules import Bound, Reduction, checked_table
from stepwell.step.clipping import Clip, Clipping, clip_from
from stepwell.step.current_update import Made
from stepwell.step.done import Done
from stepwell.step.estimating import Estimating, checked_estimator
from stepwell.step.estimators import Estimator
from stepwell.step.files import Files
from stepwell.step.generators import Generators, checked_generators
from stepwell.step.gradient_guard import Left
from stepwell.step.interrupts import Held
from stepwell.step.model_and_optimizer import Trained, checked_model, checked_optimizer
from stepwell.step.outside_calls import Beside
from stepwell.step.part import Parts
from stepwell.step.places import Places
from stepwell.step.progress import Progress
from stepwell.step.release import Release, refuse
from stepwell.step.scaling import Scaler, checked_scaler
from stepwell.step.skips import Skips, checked_warn_skipped
from stepwell.step.stages import Stages
from stepwell.step.switching import Switching
from stepwell.step.synchronisation import Synchronisation


class Run:
    """The parts of a Step. `Step` documents the arguments, and the order in which an update uses the parts."""

    optimizer = Attribute[torch.optim.Optimizer]("_trained", "optimizer", checked_optimizer)
    model = Attribute[torch.nn.Module | None]("_trained", "model", checked_model)
    accumulate = Attribute[int]("_shares", "accumulate", checked_accumulate)
    clip = Attribute[Clip | None]("_clipping", "clip", lambda clip: clip_from(None, clip))
    scaler = Attribute[Any]("_scaler", "given", checked_scaler)
    generators = Attribute[dict[str, Any]]("_generators", "given", checked_generators)
    average = Attribute[Averages | None]("_averaging", "average", lambda average: averages_from(None, average))
    plateau = Attribute[Plateau | None]("_bound", "plateau", lambda plateau: checked_plateau("Step", plateau))
    estimator = Attribute[Estimator | None]("_estimating", "estimator", checked_estimator)
    schedules = Attribute[dict[str, Schedule]]("_bound", "schedules", checked_table)

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        schedule: Schedules | None = None,
        clip_norm: float | None = None,
        accumulate: int = 1,
        *,
        clip: Clip | None = None,
        scaler: Any = None,
        ema: float | Averages | None = None,
        average: float | Averages | None = None,
        total_steps: int | None = None,
        plateau: Plateau | None = None,
        model: torch.nn.Module | None = None,
        generators: Mapping[str, Any] | None = None,
        estimator: Estimator | None = None,
        warn_skipped: int | None = 20,
        group: torch.distributed.ProcessGroup | None = None,
        release: bool = False,
    ) -> None:
        trained = self._trained = Trained(optimizer)
        self._release = Release(trained) if flag("Step", "release", release) else None
        accumulate = checked_accumulate(accumulate)
        self._clipping = Clipping(clip_from(clip_norm, clip))
        self._scaler = Scaler(scaler)
        trained.model = checked_model(model)
        self._generators = Generators(generators)
        self._clipping.check([name for name, _ in trained.named()])
        self._averaging = Averaging(averages_from(ema, average), trained)
        self._sync = Synchronisation(model)
        self._stages = Stages(group)
        self._first_rates = [float(group["lr"]) for group in optimizer.param_groups if "lr" in group]
        self._agreement = Agreement([*self._sync.groups, *([] if group is None else [group])])
        self._shares = Shares(accumulate, self._sync.groups)
        self._check_release(estimator)  # before anything is changed
        self._progress = Progress(self._shares)
        self._bound = Bound(trained, self._progress, schedule, total_steps, plateau)
        self._scaler.join()
        self._skips = Skips(checked_warn_skipped(warn_skipped), self._scaler.scaling)
        self._left = Left()  # the gradients as the last micro-batch left them
        self._backward = Backward(trained, self._scaler, self._sync)
        self._estimating = Estimating(self._sync.group)
        self._places, self._files = Places(self._progress, self._generators), Files()
        self._listeners: list[Any] = []  # functions that are told each loss
        self._busy = False  # a call has begun; where it is still set at the next one, an interrupt ended the call
        self._inside = False  # a call is running
        with put_back_if_refused(trained.optimizer.param_groups):
            self._bound.start()
            self._estimating.start(estimator, trained.optimizer)
        self._averaging.start()
        self._made = Made(trained, Beside(trained, self._shares))
        self._switching = Switching(trained, self._bound, self._averaging, self._estimating, self._made)
        self._before_next()
        self._complete = True

    if not TYPE_CHECKING:  # a checker that saw this method would take any name

        def __setattr__(self, name: str, value: Any) -> None:
            if "_complete" in self.__dict__:
                check_name(self, name)
            object.__setattr__(self, name, value)

    def _parts(self) -> Parts:
        """The saved parts in the order of checking and loading: first the parts that others are checked against, then
        the parts with state, last the parts that continue from that state."""
        return (
            ("switched", self._switching),
            ("skipped", self._progress),
            ("clip", self._clipping),
            ("estimator", self._estimating),
            ("average", self._averaging),
            ("optimizer", self._trained),
            ("scaler", self._scaler),
            ("plateau", Reduction(self._bound)),
            ("number", self._bound),
            ("passes", self._places),
            ("generators", self._generators),
            ("run", self._files),
        )

    # Gradient release

    def _check_release(self, estimator: Estimator | None, weighted: bool = False) -> None:
        """Raise UsageError for what cannot be combined with `release`; attributes may be set between updates."""
        if self._release is not None:
            groups = [*self._sync.groups, *([] if self._stages.group is None else [self._stages.group])]
            self._release.check(self.clip, self.accumulate, self.scaler, estimator, groups)
            if weighted and self.accumulate > 1:
                refuse(self._release, "the sum of the weights is known when the gradients are gone; give no weight")

    def _released(self, loss: Tensor, share: Factor, weight: Weight | None, retain_graph: bool) -> Done:
        """Lines 1 to 11 of a Step, where the update takes place inside the backward pass (step/release.py)."""
        assert self._release is not None
        self._settle()
        self._clipping.note()
        number, accumulate, lr = self._shares.number, self._shares.accumulate, self._trained.lr()
        with self._release.during(self.clip, number, accumulate):
            self._backward.run(loss, share, retain_graph, released=True)
        self._release.check_got_gradients()
        mean = self._shares.mean(loss.detach(), weight)
        self._places.called()
        if number < accumulate:
            self._busy = False
            return Done(lr, number, Reading(mean))
        with self._made.inside():
            hooked(self._trained.optimizer, lambda: None)
        return self._finish(lr, mean, self._release.outcome())

    # Before an update or after it

    def _begin(self, what: str) -> None:
        """At the beginning of every call: complete an interrupted call, and read values set by hand."""
        self._repair(stuck=what in ("step", "flush", "closure"))
        self._refuse_inside_averaged(what)
        self._bound.refresh()

    def _refuse_inside_averaged(self, what: str) -> None:
        if self._averaging.swapped:
            raise UsageError(
                f"Step: {what}() inside `with step.averaged()` would act on the averages; exit the context first"
            )

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Context manager around changes of the run: after an exception the run is before the update, or after it."""
        self._made.outcome = None
        self._clipping.forget()
        self._busy = self._inside = True
        try:
            yield
        except BaseException:
            self._repair(stuck=True)
            raise
        finally:
            self._inside = False

    def _repair(self, stuck: bool = False) -> None:
        """After an interrupted call: count an update that was made, or drop an update that was not made.

        Args:
            stuck: whether no call can still be running (a hook may ask for `number` during an update).
        """
        if not self._busy or (self._inside and not stuck):
            return
        progress = self._progress
        with Held():
            if self._made.happened():
                assert self._made.outcome is not None
                self._count(self._made.outcome)
            else:
                self._clipping.put_back()
            if progress.pending is not None and not progress.pending.waits:
                self._settle()
            progress.number = max(progress.number, self._averaging.at)
            self._begin_anew()
            if self._bound.is_behind:
                self._bound.write()

    def _count(self, outcome: Reading) -> None:
        """Called when the update was made or skipped; which of the two is known later. Line 7."""
        self._progress.pending = outcome
        if self._made.unrecorded is not None:
            self._scaler.record(self._trained.optimizer, self._made.unrecorded)
            self._made.unrecorded = None
        self._averaging.pend(outcome)
        self._clipping.forget()
        self._made.counted()

    def _settle(self) -> None:
        """Lines 8 and 9 of the last update, once it is known whether it happened."""
        progress = self._progress
        if progress.pending is None:
            return
        found_inf = progress.pending[0]
        with Held():
            if found_inf != 0:
                progress.pending, progress.skipped = None, progress.skipped + 1
                self._skips.skipped()
                return
            number = progress.number + 1
            self._averaging.after_update(number)
            progress.pending = None  # from here on `_repair` takes the number from the line above
            progress.number = number
            self._skips.updated()
            self._averaging.counted()
        self._bound.write()

    def _begin_anew(self) -> None:
        """Line 10: make the next micro-batch the first of an update."""
        self._trained.drop_gradients()
        self._estimating.drop()
        self._scaler.drop()
        self._shares.restart()
        self._left.drop()
        self._sync.drop()
        self._before_next()
        self._made.drop()
        self._clipping.forget()
        self._busy = False

    def _before_next(self) -> None:
        """Decide whether the next micro-batch is synchronized: line 2."""
        last = self._shares.number + 1 >= self._shares.accumulate
        self._sync.before(last=last or self._places.at_last)

    @torch.no_grad()
    def _finish(self, lr: float | Reading, loss: Tensor, outcome: Reading) -> Done:
        """Lines 7 to 11."""
        self._count(outcome)
        if not outcome.waits:
            self._settle()
        done = Done(lr, max(1, self._shares.number), Reading(loss), outcome)
        self._begin_anew()
        return done

    # Another optimizer

    def switch(self, to: str | type[Any], *, lr: Any, carry: bool = True, **options: Any) -> torch.optim.Optimizer:
        """Replace the optimizer, keeping parameter groups, update count, schedules, averages and clipping.

        Args:
            to: name or class of the new optimizer.
            lr: learning rate of the first group at the next update; the schedule continues from this rate with its
                shape. Or a `Swats` that is ready.
            carry, options: see `stepwell.switch`, which lists the state that is carried over.

        Returns the new optimizer, which is `step.optimizer` from now on. A checkpoint that is saved after the
        switch resumes with the new optimizer: `load` switches by itself.

        >>> if step.number == 5_000:
        ...     step.switch("sgd", lr=0.1, momentum=0.9)

        Raises UsageError within an accumulation, for everything that `stepwell.switch` refuses, for a schedule of a
        hyperparameter that the new optimizer does not have, and for a schedule that gives rates and not factors.
        Nothing is changed then.
        """
        self._begin("switch")
        self._shares.check_none_in("; switch after an update")
        self._settle()
        self._switching.switch(to, lr, carry, options)
        return self.optimizer

    def observe(self, metric: Any) -> None:
        """Pass a metric to the Plateau; a lower rate takes effect at the next update. In a distributed run every
        process calls this, and the Plateau sees the mean."""
        if self.plateau is not None:
            self._repair()
            self._settle()
            metric = self._agreement.mean(metric)
        self._bound.observe(metric)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Context manager: use the averaged weights inside, restore the training weights exactly on exit.

        With `model`, the running statistics of batch norm are restored as well, even if they were recomputed inside.

        >>> with step.averaged():
        ...     accuracy = evaluate(model)
        """
        if self.average is None:
            raise UsageError("Step: this Step has no averages; make it with Step(..., ema=0.999) or average=SWA(...)")
        self._begin("averaged")
        self._settle()
        with self._averaging.swapped_in():
            yield

    # What is known

    @property
    def number(self) -> int:
        """How many updates have happened. Waits for the last update."""
        self._repair()
        self._settle()
        return self._progress.number

    @property
    def skipped(self) -> int:
        """How many updates were skipped because a gradient was not finite. Waits for the last update."""
        self._repair()
        self._settle()
        return self._progress.skipped

    @property
    def passes(self) -> int:
        """How many passes of `batches` have ended, including passes before a loaded checkpoint.

        >>> for epoch in range(step.passes, epochs):
        ...     for batch in step.batches(loader):
        ...         step(loss_fn(model(batch.x), batch.y))
        """
        return self._places.finished

    @property
    def accumulated(self) -> int:
        """How many micro-batches of the next update have been accumulated."""
        self._repair()
        return self._shares.number

    @property
    def is_between_updates(self) -> bool:
        """Whether no accumulation is incomplete and the averages are not swapped in."""
        return self.accumulated == 0 and not self._averaging.swapped

    def _loaded(self) -> None:
        """Called when all parts are loaded: an incomplete accumulation is dropped."""
        self._begin_anew()
        self._progress.pending = None
        self._averaging.at = self._progress.number
        self._skips.updated()
        self._places.loaded()

    def __repr__(self) -> str:
        parts = [type(self.optimizer).__name__]
        parts += [f"{name}: {one}" for name, one in self.schedules.items()]
        parts += [repr(part) for part in (self.clip, self.average, self.estimator) if part is not None]
        parts += [f"accumulate={self.accumulate}"] if self.accumulate > 1 else []
        return f"Step({', '.join(parts)}, update {self._progress.number})"
