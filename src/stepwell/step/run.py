"""What a Step is from one update to the next: its parts, what is known of them, and how they are saved.

After an exception or an interrupt the run is before an update or after it, never in between: a call that was ended is
finished here, by the next one or on its own way out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from stepwell.arguments import whole
from stepwell.engine.reading import Reading
from stepwell.errors import UsageError
from stepwell.schedules.apply import Schedules, put_back_if_refused
from stepwell.schedules.base import Schedule
from stepwell.schedules.plateau import Plateau, checked_plateau
from stepwell.step import checkpoint, saving
from stepwell.step.accumulation import Shares
from stepwell.step.attributes import Attribute, check_name
from stepwell.step.averages import Averages
from stepwell.step.averaging import Averaging, averages_from
from stepwell.step.backward import Backward
from stepwell.step.beside import Beside
from stepwell.step.bound import Bound, Reduction, checked_table
from stepwell.step.clipping import Clip, Clipping, clip_from
from stepwell.step.estimating import Estimating, checked_estimator
from stepwell.step.estimators import Estimator
from stepwell.step.files import Files
from stepwell.step.generators import Generators, checked_generators
from stepwell.step.gradients_between import Left
from stepwell.step.interrupts import Held
from stepwell.step.loaded import checked_overrides, say_of_loaded
from stepwell.step.made import Made
from stepwell.step.not_finite import Skips, checked_warn_skipped
from stepwell.step.part import Parts
from stepwell.step.places import Places
from stepwell.step.progress import Progress
from stepwell.step.scaling import Scaler, checked_scaler
from stepwell.step.switching import Switching
from stepwell.step.synchronisation import Synchronisation
from stepwell.step.trained import Trained, checked_model, checked_optimizer


def _checked_accumulate(accumulate: Any) -> int:
    return whole("Step", "accumulate", accumulate, least=1)


class Run:
    """The parts of a Step. `Step` says what the arguments are, and in which order an update goes through the parts."""

    optimizer = Attribute[torch.optim.Optimizer]("_trained", "optimizer", checked_optimizer)
    model = Attribute[torch.nn.Module | None]("_trained", "model", checked_model)
    accumulate = Attribute[int]("_shares", "accumulate", _checked_accumulate)
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
        accumulate = _checked_accumulate(accumulate)
        self._clipping = Clipping(clip_from(clip_norm, clip))
        self._scaler = Scaler(scaler)
        trained.model = checked_model(model)
        self._generators = Generators(generators)
        self._clipping.check([name for name, _ in trained.named()])
        self._averaging = Averaging(averages_from(ema, average), trained)
        self._sync = Synchronisation(model)
        self._shares = Shares(accumulate, self._sync.group)
        self._progress = Progress(self._shares)
        self._bound = Bound(trained, self._progress, schedule, total_steps, plateau)
        self._scaler.join()
        self._skips = Skips(checked_warn_skipped(warn_skipped), self._scaler.scaling)
        self._left = Left()  # the gradients as the last micro-batch left them
        self._backward = Backward(trained, self._scaler, self._sync)
        self._estimating = Estimating(self._sync.group)
        self._places, self._files = Places(self._progress, self._generators), Files()
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
        """What is saved, in the order in which it is checked and loaded: first what the others are checked against,
        then what holds state, at last what goes on from there."""
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
        """At the beginning of every call: what an interrupt left, and what was set by hand."""
        self._repair(stuck=what in ("step", "flush", "closure"))
        self._refuse_inside_averaged(what)
        self._bound.refresh()

    def _refuse_inside_averaged(self, what: str) -> None:
        if self._averaging.swapped:
            raise UsageError(f"Step: {what}() inside `with step.averaged()` would act on the averages; leave it first")

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Around what changes the run: after an exception the run is before the update, or after it."""
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
        """Where a call was ended by an exception or an interrupt: count an update that was made, drop what was not.

        Args:
            stuck: there cannot be a call that is still running (a hook may ask for `number` during an update).
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
        """The update was made, or skipped; whether it was is known later. Line 7."""
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
        """Line 10: the next micro-batch is the first of an update."""
        self._trained.drop_gradients()
        self._estimating.drop()
        self._scaler.drop()
        self._shares.start_anew()
        self._left.drop()
        self._sync.drop()
        self._before_next()
        self._made.drop()
        self._clipping.forget()
        self._busy = False

    def _before_next(self) -> None:
        """Settle whether the coming micro-batch is synchronised: line 2."""
        last = self._shares.number + 1 >= self._shares.accumulate
        self._sync.before(last=last or self._places.at_last)

    # Another optimizer

    def switch(self, to: str | type[Any], *, lr: Any, carry: bool = True, **options: Any) -> torch.optim.Optimizer:
        """Go on with another optimizer over the same groups; number, schedules, averages and clipping go on, too.

        Args:
            to: name or class of the new one.
            lr: its rate at the next update (of the first group); the schedule goes on from there in its shape. Or a
                `Swats` that is ready.
            carry, options: see `stepwell.switch`, which says what is carried over.

        Returns the new optimizer, which is `step.optimizer` from now on. A run that is loaded from a checkpoint after
        the switch needs no second one: `load` switches by itself.

        >>> if step.number == 5_000:
        ...     step.switch("sgd", lr=0.1, momentum=0.9)

        Raises UsageError within an accumulation, for what `stepwell.switch` refuses, and where a schedule drives what
        the new one does not have, or gives rates itself; nothing is changed then.
        """
        self._begin("switch")
        self._shares.check_none_in("; switch after an update")
        self._settle()
        self._switching.switch(to, lr, carry, options)
        return self.optimizer

    def observe(self, metric: Any) -> None:
        """Show the Plateau a metric; a lower rate holds from the next update on."""
        if self.plateau is not None:
            self._repair()
            self._settle()
        self._bound.observe(metric)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The weights are their averages inside, for evaluating or exporting; bit for bit what they were afterwards.

        With `model`, so are the running statistics of batch norm, also if they are taken anew inside.

        >>> with step.averaged():
        ...     accuracy = evaluate(model)
        """
        if self.average is None:
            raise UsageError("Step: there are no averages; make it with Step(..., ema=0.999) or average=SWA(...)")
        self._begin("averaged")
        self._settle()
        with self._averaging.swapped_in():
            yield

    # Checkpoints

    def state_dict(self) -> dict[str, Any]:
        """All that the run needs beside the model's weights, between two accumulations.

        The optimizer's state (by name, if it has names), the numbers of updates and skips, the scaler, the averages,
        what clipping, the Plateau and the estimator remember, and the random generators: Python's, NumPy's, torch's on
        the CPU and on every GPU, and those given as `generators`.

        Raises UsageError within an accumulation (its gradients would be lost) and inside `averaged`.
        """
        self._begin("state_dict")
        self._shares.check_none_in(", and a checkpoint would lose their gradients; save after an update")
        self._settle()
        return saving.state_dict(self._parts())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` gave. An accumulation that has begun is dropped.

        Raises UsageError naming the first parameter that does not fit, or the part that is missing; then nothing has
        changed.
        """
        self._repair()
        self._refuse_inside_averaged("load_state_dict")
        self._settle()
        with say_of_loaded(self._bound, {}):
            saving.load_state_dict(self._parts(), state, self._loaded)

    def save(
        self,
        path: str | Path,
        model: torch.nn.Module | None = None,
        *,
        keep: int = 3,
        extra: Any = None,
    ) -> Path:
        """Write a checkpoint of the run: `state_dict()`, the model's and what you add.

        It is written to a temporary file, forced to the disk and renamed, so that `path` is always there and whole. The
        ones before become `path` with `.1`, `.2`, ... before the suffix. Only what the saves of this run (continued by
        `load`) have made is ever replaced or deleted: numbers that other files have are passed over, and the checkpoint
        of another run that stands at `path` gets the first free number and is kept.

        Inside a loop over `batches` it is taken where the loop is. Several processes may all call this with one path:
        rank 0 writes the checkpoint, every other rank its random generators, to `path` with `.rank1`, `.rank2`, ...
        behind it; nobody waits. Where only rank 0 calls it, `load` seeds the other ranks anew, each differently.

        Args:
            path: such as "runs/a/checkpoint.pt"; its folder is made.
            model: whose weights and buffers are saved; the Step's own by default.
            keep: how many checkpoints stay, this one included, at least 1. With 1 there is nothing to fall back to
                should the file be damaged.
            extra: what else you need (the epoch, the place in the data): numbers, text, tensors, in lists and dicts.

        Raises UsageError where `path` is a file that no Step wrote or that another process saves to, within an
        accumulation, and inside a pass that could not be gone on with. Where the disk is full or cannot be written,
        the UsageError is an OSError, too. The checkpoints before stay as they are.
        """
        return checkpoint.save(self.state_dict, self._files, path, self._model_to_save(model), keep, extra)

    def load(
        self,
        path: str | Path,
        model: torch.nn.Module | None = None,
        *,
        overrides: Mapping[str, Any] | None = None,
    ) -> Any:
        """Continue from the newest whole checkpoint at `path`, and return its `extra`.

        A file that is cut short or damaged is passed over with a warning, and the one before is taken. Files are read
        with `weights_only=True`: they cannot run code.

        Hyperparameters become those of the checkpoint, and one warning says which of this optimizer's that replaced.
        The schedule is this Step's; where its factor at this update differs from that in the checkpoint by a tenth or
        more (a longer run), one warning says how the hyperparameter jumps.

        Args:
            overrides: hyperparameters that shall have these values in every group, whatever the checkpoint says, as
                {"lr": 1e-4, "weight_decay": 0.1}. Of one that a schedule drives it is the base.

        >>> step.save("runs/a/checkpoint.pt")
        >>> step.load("runs/a/checkpoint.pt", overrides={"lr": 1e-4})

        Raises UsageError where there is none, and for a checkpoint of another model, naming the first parameter that
        differs; then nothing has changed.
        """
        self._repair()
        self._refuse_inside_averaged("load")
        self._settle()
        wanted = checked_overrides(self._bound, overrides)
        with say_of_loaded(self._bound, wanted):
            return checkpoint.load(self._parts(), self._loaded, self._files, path, self._model_to_save(model))

    def _model_to_save(self, model: torch.nn.Module | None) -> torch.nn.Module:
        model = self._trained.model_to_save(model)
        return getattr(model, "module", model) if self._sync.group is not None else model

    def _loaded(self) -> None:
        """All parts have been loaded: an accumulation that has begun is dropped."""
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
