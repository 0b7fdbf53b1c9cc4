"""The parts of a Step, their state between updates, and how they are saved.

After an exception or an interrupt the run is before an update or after it, never in between. An interrupted call is
completed here, either on its own way out or by the next call.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from stepwell.engine.reading import Reading
from stepwell.errors import UsageError
from stepwell.schedules.apply import Schedules, put_back_if_refused
from stepwell.schedules.base import Schedule
from stepwell.schedules.plateau import Plateau, checked_plateau
from stepwell.step import checkpoint, ranks, saving
from stepwell.step.accumulation import Shares, checked_accumulate
from stepwell.step.attributes import Attribute, check_name
from stepwell.step.averages import Averages
from stepwell.step.averaging import Averaging, averages_from
from stepwell.step.backward import Backward
from stepwell.step.bound_schedules import Bound, Reduction, checked_table
from stepwell.step.clipping import Clip, Clipping, clip_from
from stepwell.step.current_update import Made
from stepwell.step.estimating import Estimating, checked_estimator
from stepwell.step.estimators import Estimator
from stepwell.step.files import Files
from stepwell.step.generators import Generators, checked_generators
from stepwell.step.gradient_guard import Left
from stepwell.step.interrupts import Held
from stepwell.step.model_and_optimizer import Trained, checked_model, checked_optimizer
from stepwell.step.outside_calls import Beside
from stepwell.step.overrides import checked_overrides, say_of_loaded
from stepwell.step.part import Parts
from stepwell.step.places import Places
from stepwell.step.progress import Progress
from stepwell.step.scaling import Scaler, checked_scaler
from stepwell.step.skips import Skips, checked_warn_skipped
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
    ) -> None:
        trained = self._trained = Trained(optimizer)
        accumulate = checked_accumulate(accumulate)
        self._clipping = Clipping(clip_from(clip_norm, clip))
        self._scaler = Scaler(scaler)
        trained.model = checked_model(model)
        self._generators = Generators(generators)
        self._clipping.check([name for name, _ in trained.named()])
        self._averaging = Averaging(averages_from(ema, average), trained)
        self._sync = Synchronisation(model)
        self._shares = Shares(accumulate, self._sync.groups)
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
        """Pass a metric to the Plateau; a lower rate takes effect at the next update."""
        if self.plateau is not None:
            self._repair()
            self._settle()
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

    def state_dict(self) -> dict[str, Any]:
        """The complete state of the run except the model's weights, between two accumulations.

        It contains the optimizer's state (by name, if the parameters have names), the numbers of updates and skips, the
        scaler, the averages, the states of clipping, Plateau and estimator, and the random generators: Python's,
        NumPy's, torch's on the CPU and on every GPU, and the given `generators`.

        In a run of several processes `torch.distributed.checkpoint` saves it and loads it in place: every parameter has
        state, also before the first update, and generators are under the name of the rank.

        Raises UsageError within an accumulation (its gradients would be lost) and inside `averaged`.
        """
        if ranks.rank() is not None:
            self._trained.make_state()
        return ranks.named(self._state())

    def _state(self) -> dict[str, Any]:
        self._begin("state_dict")
        self._shares.check_none_in(", and a checkpoint would lose their gradients; save after an update")
        self._settle()
        return saving.state_dict(self._parts())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the result of `state_dict`. An incomplete accumulation is dropped.

        Raises UsageError that names the first parameter that does not fit, or the missing part. Nothing is changed
        then.
        """
        self._repair()
        self._refuse_inside_averaged("load_state_dict")
        self._settle()
        with say_of_loaded(self._bound, {}):
            state = ranks.unnamed(state)
            self._trained.check_has_state(state)
            saving.load_state_dict(self._parts(), state, self._loaded)

    def save(
        self,
        path: str | Path,
        model: torch.nn.Module | None = None,
        *,
        keep: int = 3,
        extra: Any = None,
    ) -> Path:
        """Write a checkpoint of the run: `state_dict()`, the state of the model, and `extra`.

        The checkpoint is written to a temporary file, forced to disk and renamed, so that `path` is always a complete
        file. Earlier checkpoints become `path` with `.1`, `.2`, ... before the suffix. Only files written by this run
        (also before a resume by `load`) are replaced or deleted: numbers of other files are skipped, and a checkpoint
        of another run at `path` is kept under the first free number.

        Inside a loop over `batches` the checkpoint contains the position of the loop. Several processes call `save`
        with the same path: rank 0 writes the checkpoint, and every other rank writes its random generators to `path`
        with `.rank1`, `.rank2`, ... appended. No process waits. If only rank 0 calls `save`, `load` reseeds the others.
        A sharded model (FSDP2, tensor parallelism) has a folder at `path`, which all ranks must write together, and
        which any number of processes can load.

        Args:
            path: such as "runs/a/checkpoint.pt"; missing folders are created.
            model: the module whose weights and buffers are saved; the Step's `model` by default.
            keep: how many checkpoints to keep, the new checkpoint included, at least 1. With 1 there is no earlier
                checkpoint to fall back to if the file is damaged.
            extra: your own values (such as the epoch): numbers, text, tensors, in lists and dicts.

        Raises UsageError if no Step wrote the file at `path`, if another process saves to `path`, within an
        accumulation, inside a pass that cannot be resumed, and if a rank of a sharded model does not save. If the disk
        is full or not writable, the UsageError is also an OSError. Earlier checkpoints are unchanged then.
        """
        return checkpoint.save(self._state, self._files, path, self._trained.model_to_save(model), keep, extra)

    def load(
        self,
        path: str | Path,
        model: torch.nn.Module | None = None,
        *,
        overrides: Mapping[str, Any] | None = None,
    ) -> Any:
        """Load the newest intact checkpoint at `path`, and return its `extra`.

        A truncated or damaged file is skipped with a warning, and the previous checkpoint is loaded. Files are read
        with `weights_only=True`: they cannot run code.

        Hyperparameters are loaded from the checkpoint; one warning lists the values of this optimizer that were
        replaced. The schedule is that of this Step. If its factor at this update differs by a tenth or more from the
        factor in the checkpoint (as in a longer run), one warning says how the hyperparameter jumps.

        Args:
            overrides: values that replace those of the checkpoint in every group, as {"lr": 1e-4, "weight_decay": 0.1}.
                For a scheduled hyperparameter, the value is the base.

        >>> step.save("runs/a/checkpoint.pt")
        >>> step.load("runs/a/checkpoint.pt", overrides={"lr": 1e-4})

        Raises UsageError if there is no checkpoint, and for a checkpoint of another model, naming the first parameter
        that differs. Nothing is changed then.
        """
        self._repair()
        self._refuse_inside_averaged("load")
        self._settle()
        wanted = checked_overrides(self._bound, overrides)
        with say_of_loaded(self._bound, wanted):
            model = self._trained.model_to_save(model)
            return checkpoint.load(self._parts(), self._loaded, self._files, path, model, self._trained.optimizer)

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
