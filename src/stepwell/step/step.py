"""One training step in the one right order:

 1  backward, the loss weighted by its share of the accumulated batch; before it, every few updates, what an estimate of
    the Hessian needs (Sophia)
 2  gradient synchronisation between processes only on the last micro-batch
 3  unscale (GradScaler): as a factor, not as a pass of its own
 4  the global norm and one flag, whether it is finite; both stay on the device
 5  clip: as a factor handed to the optimizer's kernel
 6  update, under the flag: where a gradient is not finite nothing changes
 7  the scaler's update
 8  schedule, counting updates that happened
 9  averages of the weights (EMA)
10  gradients to None
11  the one place where a checkpoint may be taken

The first line begins with gradients at None: what another backward pass left in these parameters (the other network's,
in a GAN) is not of this batch.

On a GPU nothing waits for the device. Whether update n happened is known on the host while the device works at step
n + 1; so 8 and 9 of update n are done just before update n + 1, or when they are asked for (`number`, `averaged`,
`state_dict`, ...), which gives the same numbers: the weights have not changed since.

After an exception or an interrupt the run is before an update or after it, never in between: handlers of signals wait
while lines 3 to 9 are done, and the next call (or the same, on its way out) finishes what was done of an update that
was made, and drops the gradients of one that was not.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from stepwell.anatomy.batch_norm import statistics_kept
from stepwell.arguments import flag, fraction, function, mapping, refusal, whole
from stepwell.engine.gradients import Factor, multiply
from stepwell.engine.reading import Reading
from stepwell.engine.tracing import untraced
from stepwell.engine.update import gradient_norm, has_hooks_before, needs_closure, update, update_with
from stepwell.errors import UsageError, shown
from stepwell.schedules.apply import Schedules, apply, initial_values, put_back_if_refused, resolve
from stepwell.schedules.base import Schedule
from stepwell.schedules.plateau import Plateau, checked_plateau
from stepwell.schedules.smooth import constant
from stepwell.schedules.written import forget, note, take_the_place_of_initial
from stepwell.step import saving, switching
from stepwell.step.accumulation import Shares, Weight, checked_weight
from stepwell.step.attributes import check_name
from stepwell.step.averages import Average, Averages
from stepwell.step.beside import watch
from stepwell.step.clipping import Clip, ClipNorm, above_zero
from stepwell.step.done import Done
from stepwell.step.estimators import Estimator, Logits, checked_estimator, rebound
from stepwell.step.files import Files
from stepwell.step.generators import checked_generators
from stepwell.step.gradients_between import Left
from stepwell.step.hyperparameters import checked_overrides, say_of_factors, say_of_loaded, taken_by_hand
from stepwell.step.interrupts import Held
from stepwell.step.names import averaged
from stepwell.step.not_finite import Skips, checked_warn_skipped
from stepwell.step.passes import Pass
from stepwell.step.places import Place, Places, checked_length
from stepwell.step.scaling import Scaling
from stepwell.step.synchronisation import Synchronisation
from stepwell.step.trainer import Counted, unwrapped

Batch = TypeVar("Batch")


class Step:
    """The training step around an optimizer: backward, accumulation, clipping, update, schedule, averages, checkpoint.

    Args:
        optimizer: of stepwell (clipping and unscaling are then a factor inside its kernel), or any of `torch.optim`
            (the factor is then applied by one pass over the gradients, `torch._foreach_mul_`, and on a GPU an
            optimizer that is not fused waits for the flag of line 4). Lightning's `self.optimizers()` is unwrapped,
            and its `global_step` counts the updates of every Step.
        schedule: of lr, or a dict of schedules (see `stepwell.schedules.apply`). It counts updates that happened.
        clip_norm: largest Euclidean norm of the whole gradient, above 0; None does not clip.
        accumulate: micro-batches per update, at least 1.
        clip: another way to clip: `ClipValue`, `AdaptiveClip`, `AutoClip`. Not together with `clip_norm`.
        scaler: a `torch.amp.GradScaler`, for fp16; bf16 needs none.
        ema: decay of an average of the weights, such as 0.999: short for average=Average(0.999).
        average: an average of the weights: `Average` (exponential), `SWA` (uniform).
        total_steps: updates of the run, if known: fractions of the schedule are resolved, and one that does not fit
            the run is refused.
        plateau: a `Plateau` whose factor multiplies lr; show it the metric with `observe`.
        model: the module that is trained. Needed where it is distributed (see line 2), for averages that take the
            model's floating-point buffers along (batch norm's statistics), and the default of `save` and `load`.
        generators: random generators by name, saved with the run beside the global ones: those of a DataLoader's
            shuffling, as {"data": generator} (torch.Generator, numpy.random.Generator or random.Random).
        estimator: what estimates the Hessian's diagonal for Sophia, `GaussNewtonBartlett` or `Hutchinson`.
        warn_skipped: after how many updates in a row that were skipped to warn, once, with the name of the first
            parameter whose gradient is not finite; None never does. The skips by which a fresh scaler comes down to
            its scale are not counted.

    >>> step = Step(optimizer, warmup(500).then(cosine(9_500, to=0.1)), clip_norm=1.0, accumulate=4)
    >>> for batch in step.batches(loader):
    ...     done = step(loss_fn(model(batch.x), batch.y))

    Micro-batches of unequal size are weighted by what their loss is the mean of: `step(loss, weight=tokens)`. The
    update is then that of one big batch, to rounding.

    The learning rate may be set by hand between updates, as `group["lr"] = 0.1`: that is the new base, which the
    schedule multiplies from the next update on (with a warning where the rate of that update then is another number).
    So with every hyperparameter that the schedules drive; one that gives values itself (`.between`) refuses it.

    The Step does all that a loop does around the backward pass. What is left of that by habit is noticed:
    `optimizer.zero_grad()` between micro-batches and `optimizer.step()` within an accumulation are refused,
    `optimizer.step()` elsewhere is warned of, and so is a torch scheduler that drives lr beside the Step's schedule.

    Hooks before the optimizer's step see the gradient that the update takes: unscaled, weighted, clipped. (Where there
    is one, the factor is applied by a pass of its own.)

    GANs: one Step for each network, side by side. Each drops what the other's backward pass left in its parameters
    before its own; where accumulations interleave, freeze the other network during the backward pass. They may share a
    scaler, which is then updated once per round.

    Optimizers whose step happens inside the backward pass (gradient release) are refused: clipping by a global norm,
    skipping and accumulation need all gradients at once.

    Raises UsageError for arguments out of range, and for a schedule that does not fit.
    """

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
        self.optimizer = optimizer = _checked_optimizer(unwrapped(optimizer))
        self.accumulate = _checked_accumulate(accumulate)
        self.clip = _checked_clip(clip_norm, clip)
        self.scaler = _checked_scaler(scaler)
        self.model = _checked_model(model)
        self.generators = checked_generators(generators)
        named = self._named()
        if self.clip is not None:
            self.clip.check([name for name, _ in named])
        self.average = _checked_average(ema, average)
        self.plateau = checked_plateau("Step", plateau)
        self.schedules = self._checked_schedules(schedule, total_steps)
        self._initial: list[dict[str, Any]] = []
        self._horizon = _horizon(self.schedules)
        self._scaling = None if self.scaler is None else Scaling(self.scaler)
        self._sync = Synchronisation(model)
        self._shares = Shares(self.accumulate, self._sync.group)
        self._left = Left()  # the gradients as the last micro-batch left them
        self._number = 0
        self._skipped = 0
        self._skips = Skips(checked_warn_skipped(warn_skipped), self._scaling)
        self._busy = False  # a call has begun; where it is still set at the next one, an interrupt ended the call
        self._inside = False  # a call is running
        self._made: Reading | None = None  # the outcome of an update that has begun, until it is pending
        self._unrecorded: Tensor | None = None  # the flag of that update, until the scaler has it
        self._sample: tuple[Tensor, Tensor] | None = None  # some weights, and what they were before that update
        self._clip_before: dict[str, Any] | None = None  # what clipping remembered before that update
        self._pending: Reading | None = None
        self._averaged_at = 0  # the number of the update that the averages have taken in
        self._average_before: Tensor | None = None  # some of the averages, before an update of them that has begun
        self._schedule_at = 0  # the number of updates that stands in the groups
        self._buffers: dict[str, Tensor] | None = None  # the model's, as they were at the update that is pending
        self._places, self._files = Places(self), Files()
        self._pass: Pass | None = None  # over a loader, by `batches`
        self._calls_per_batch: int | None = None  # in the passes before
        self._overrides: Mapping[str, Any] = {}  # of a checkpoint that is being loaded
        self._said_base: tuple[int, str] = (-1, "")
        self._swapped = False
        self._warned_of_step = False
        self._switched: str | None = None  # the class of the optimizer that the first was switched to
        with put_back_if_refused(optimizer.param_groups):
            if self.schedules:
                take_the_place_of_initial(optimizer, self.schedules)
                self._initial = initial_values(self.schedules, optimizer.param_groups)
                self._write_schedule()
            self.estimator = self._estimator = checked_estimator(estimator, optimizer, self._sync.group)
        if self.average is not None:
            self.average.start(dict(self._averaged()))
        self._watch = watch(optimizer, self)
        self._counted = Counted()
        self._sync.before(last=self.accumulate == 1)
        self._complete = True

    if not TYPE_CHECKING:  # a checker that saw this method would take any name

        def __setattr__(self, name: str, value: Any) -> None:
            if "_complete" in self.__dict__:
                check_name(self, name)
                if name in _SETTABLE:
                    value = _SETTABLE[name](value)
            object.__setattr__(self, name, value)

    # What is trained

    def _named(self) -> list[tuple[str, Tensor]]:
        """(name, parameter) of the optimizer; names are empty where it was built without."""
        pairs: list[tuple[str, Tensor]] = []
        for group in self.optimizer.param_groups:
            names = group.get("param_names") or [""] * len(group["params"])
            pairs += zip(names, group["params"], strict=True)
        return pairs

    def _averaged(self) -> list[tuple[str, Tensor]]:
        """What is averaged: the model's floating-point buffers, then the parameters (to which some may be added)."""
        return averaged(self._averaged_buffers(), self._named())

    def _averaged_buffers(self) -> list[tuple[str, Tensor]]:
        if self.average is None or self.model is None or not self.average.takes_buffers:
            return []
        return [(name, buffer) for name, buffer in self.model.named_buffers() if buffer.is_floating_point()]

    def _checked_schedules(self, schedule: Schedules | None, total_steps: int | None) -> dict[str, Schedule]:
        if isinstance(schedule, Plateau):
            raise UsageError("Step: a Plateau has memory and is no schedule; pass plateau=Plateau(...)")
        if schedule is None:
            if total_steps is not None:
                given = shown(total_steps)
                raise UsageError(f"Step: total_steps={given} has no effect without a schedule; leave it out")
            schedule = constant() if self.plateau is not None else None
        return {} if schedule is None else resolve(schedule, total_steps)

    # The step

    @untraced
    def __call__(
        self, loss: Tensor, *, weight: Weight = 1, retain_graph: bool = False, logits: Logits | None = None
    ) -> Done:
        """Take in the loss of one micro-batch; with the last of an accumulation, update.

        Args:
            loss: a scalar with a graph, the mean over its samples or tokens, unscaled. Call this outside of
                `torch.autocast`.
            weight: of this micro-batch against the others: how many samples or tokens its loss is the mean of. A
                number above 0, or a tensor of one number, which is not waited for.
            retain_graph: as in `Tensor.backward`, for a graph that is needed again.
            logits: of this micro-batch, or a function that returns them, for an estimator that draws labels from them.

        Raises UsageError for a loss that is not a scalar with a graph, for a graph that was used up, where no parameter
        gets a gradient, past the horizon of the schedule, and for an optimizer that needs `closure`. Weights, state and
        schedule are then what they were, and the accumulation begins anew.
        """
        self._begin("step")
        if needs_closure(self.optimizer):
            raise UsageError(
                f"Step: {type(self.optimizer).__name__} evaluates the loss at places of its own; call "
                "step.closure(lambda: loss_fn(model(x), y)) instead of step(loss)"
            )
        _check_loss(loss)
        weight = checked_weight(weight)
        retain_graph = flag("Step", "retain_graph", retain_graph)
        self._check_logits(logits)
        with self._whole():
            changed = None
            if self._shares.number == 0:
                self._check_horizon()
                self._drop_gradients()
            else:
                changed = self._left.check(self._named(), self._shares.number)
            done = self._take_in(loss, weight, retain_graph, logits)
            self._left.warn(changed)
            return done

    def _take_in(self, loss: Tensor, weight: Weight, retain_graph: bool, logits: Logits | None) -> Done:
        share = self._shares.next(weight)
        if self.estimator is not None:
            self.estimator.take(loss, logits, weight, self.scaler)
        self._backward(loss, share, retain_graph)
        mean = self._shares.mean(loss.detach(), weight)
        now = self._pass is not None and self._pass.called()
        if self._shares.number < self.accumulate and not now:
            done = Done(self._lr(), self._shares.number, Reading(mean))
            if self._sync.keeps_gradients_in_place:
                self._left.note(self._named())
            self._before_next()
            self._busy = False
            return done
        return self._update(mean)

    def _before_next(self) -> None:
        """Settle whether the coming micro-batch is synchronised."""
        last = self._shares.number + 1 >= self.accumulate
        self._sync.before(last=last or (self._pass is not None and self._pass.at_last))

    def _begin(self, what: str) -> None:
        """At the beginning of every call: what an interrupt left, and what was set by hand."""
        self._repair(stuck=what in ("step", "flush", "closure"))
        self._refuse_inside_averaged(what)
        if self._schedule_at != self._number or (self.schedules and taken_by_hand(self)):
            self._write_schedule()

    @untraced
    def flush(self) -> Done:
        """Update with an accumulation that is not complete, weighted by what it holds; without one, do nothing.

        Call it after a pass over a loader whose length is no multiple of `accumulate`; `batches` does so itself.
        """
        self._repair(stuck=True)
        if self._shares.number == 0:
            return Done(self._lr(), 0, None)
        self._begin("flush")
        self._sync.check_cut_short()
        with self._whole():
            self._left.warn(self._left.check(self._named(), self._shares.number))
            self._sync.catch_up([tensor for _, tensor in self._named() if tensor.requires_grad])
            return self._update(self._shares.mean_so_far())

    def batches(self, loader: Iterable[Batch], *, resume: bool = True) -> Iterator[Batch]:
        """The batches of one pass over `loader`; the last, perhaps shorter accumulation is updated with its last batch.

        Looks one batch ahead, so that a distributed model synchronises with the last one, too. A batch may be given
        to the Step in several chunks, each a micro-batch: as many of the last batch as of those before, or the pass
        ends with a `flush()` of what is left.

        A checkpoint that is saved inside the loop goes on there: after `load`, the first call of `batches` gives the
        batches that were not stepped on yet, in the order of the saved pass, and training goes on bit for bit. A
        DataLoader draws the indices again and loads no batch twice (what its workers draw at random is drawn anew); a
        loader with `load_state_dict` (torchdata's StatefulDataLoader) is asked; the batches of any other iterable are
        drawn again and passed over. Give the Step every generator that the loader draws from, as generators={...}. A
        loop that skips by itself as many batches as it has seen is understood.

        Args:
            loader: pass the same one, as at the beginning of its pass, after a checkpoint was loaded.
            resume: whether to go on with the pass of the checkpoint; False begins a new one.

        Raises UsageError for a loader that is shorter than one accumulation, and for one that differs from that of
        the checkpoint's pass. `save` raises it inside a pass that could not go on: over an iterator, and over batches
        that are drawn from a generator from which training draws in between.
        """
        resume = flag("Step", "resume", resume)
        length = checked_length(loader)
        if length is not None and length < self.accumulate:
            raise UsageError(
                f"Step: the loader has {length} batches, fewer than accumulate={self.accumulate}; "
                f"set accumulate to at most {max(length, 1)}, or make the batches smaller"
            )
        return self._look_ahead(self._places.begin(self, loader, resume))

    def _look_ahead(self, place: Place) -> Iterator[Any]:
        ended = False
        batch = place.draw()
        mine = Pass(self._calls_per_batch)
        try:
            while batch is not None:
                following = place.draw()
                self._repair()
                self._pass = mine
                mine.begin(last=following is None)
                self._before_next()
                yield from self._places.hand_out(place, batch, following)
                batch = following
            ended = True
        finally:
            self._calls_per_batch = mine.usual()
            if self._pass is mine:
                self._pass = None
                self._before_next()
            self._places.close(place, ended)
        self.flush()  # what the last batch left

    @untraced
    def closure(self, compute: Callable[[], Tensor]) -> Done:
        """One update of an optimizer that takes gradients at several places (L-BFGS, SAM).

        Args:
            compute: computes the loss anew and returns it; without backward, which is done here each time, as is
                clipping. The update is skipped if the gradient of its first evaluation is not finite, or (SAM) that
                of a later one. L-BFGS searches on instead.

        >>> done = step.closure(lambda: loss_fn(model(x), y))

        Raises UsageError with `accumulate` above 1 or a scaler: both need to know the gradient before the update.
        """
        function("Step", "compute", compute, "it takes nothing, computes the loss and returns it")
        self._begin("closure")
        if self.accumulate != 1 or self.scaler is not None:
            what = "a scaler" if self.scaler is not None else f"accumulate={self.accumulate}"
            raise UsageError(f"Step: closure() does not go together with {what}; let the closure see the whole batch")
        if self.estimator is not None:
            raise UsageError(
                f"Step: closure() makes no estimates of the Hessian, which {self.estimator} is for; call step(loss)"
            )
        self._check_horizon()
        with self._whole():
            self._settle()
            with Held() as held:
                return self._closure(compute, held)

    def _closure(self, compute: Callable[[], Tensor], held: Held) -> Done:
        loss, found_inf, norm, clipped = self._evaluate(compute, held)
        lr = self._lr()
        outcome = Reading(found_inf, norm, clipped)
        if not found_inf:
            first: list[tuple[Tensor, Tensor]] = [(loss, found_inf)]

            def evaluate() -> tuple[Tensor, Tensor]:
                return first.pop() if first else self._evaluate(compute, held)[:2]

            named = [(name, tensor) for name, tensor in self._named() if tensor.grad is not None]
            self._expect(outcome, None, named)
            with self._inside_update():
                _, late = update_with(self.optimizer, evaluate)
            outcome = outcome if late is None else Reading(late, norm, clipped)
        return self._finish(lr, loss, outcome)

    @contextmanager
    def _inside_update(self) -> Iterator[None]:
        """Around the update: calls of `optimizer.step` are the Step's own, and whether it was made is known."""
        self._counted.begin(self.optimizer)
        if self._watch is not None:
            self._watch.begin(self.optimizer)
        try:
            yield
        finally:
            if self._watch is not None:
                self._watch.end()
        self._counted.end()

    def _evaluate(self, compute: Callable[[], Tensor], held: Held) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Loss, flag, norm and whether it was clipped, with the clipped gradients in place."""
        self._drop_gradients()
        with torch.enable_grad():
            with held.released():
                loss = compute()
            _check_loss(loss)
            self._backward(loss, 1.0, False)
        named = [(name, tensor) for name, tensor in self._named() if tensor.grad is not None]
        factor, found_inf, norm, clipped = self._factor(named)
        multiply([tensor.grad for _, tensor in named if tensor.grad is not None], factor)
        return loss.detach(), found_inf, norm, clipped

    def _backward(self, loss: Tensor, share: Factor, retain_graph: bool) -> None:
        weighted = loss if isinstance(share, float) and share == 1.0 else loss * share
        try:
            with self._sync.during_backward():
                scaled = weighted if self._scaling is None else self._scaling.scale(weighted)
                scaled.backward(retain_graph=retain_graph)
        except RuntimeError as error:
            if "second time" not in str(error):
                raise
            raise UsageError(
                "Step: this loss has been through backward already, which freed its graph; compute it anew for each "
                "step, or keep the graph where it is used first (retain_graph=True)"
            ) from error
        if self._sync.quiet:  # FSDP keeps what is not synchronised elsewhere
            return
        if all(tensor.grad is None for group in self.optimizer.param_groups for tensor in group["params"]):
            released = any(tensor._post_accumulate_grad_hooks for _, tensor in self._named())
            raise UsageError(
                "Step: no parameter of the optimizer has a gradient after backward; "
                + (
                    "a hook on them takes the gradients away (gradient release), but clipping by norm, skipping and "
                    "accumulation need all of them at once: remove the hook"
                    if released
                    else "does the loss come from another model, or are all of its parameters frozen?"
                )
            )

    def _factor(self, named: list[tuple[str, Tensor]]) -> tuple[Factor, Tensor, Tensor, Tensor]:
        """Lines 3 to 5: the factor for the optimizer, found_inf, the norm, and whether it was clipped."""
        factor = self._shares.rest() if self._shares.number else 1.0
        if self._scaling is not None:
            factor = factor * self._scaling.inverse()
        raw = gradient_norm(self.optimizer, [tensor.grad for _, tensor in named if tensor.grad is not None])
        norm = raw if isinstance(factor, float) and factor == 1.0 else raw * _on(factor, raw)
        found_inf = (~torch.isfinite(norm)).float()
        self._skips.look(named, found_inf, first=self._number == 0)
        clipped = torch.zeros_like(found_inf)
        if self.clip is not None:
            factor, was = self.clip.clip(named, factor, norm)
            clipped = was.float() * (1 - found_inf)
        return factor, found_inf, norm, clipped

    @torch.no_grad()
    def _update(self, loss: Tensor) -> Done:
        self._settle()
        with Held():
            named = [(name, tensor) for name, tensor in self._named() if tensor.grad is not None]
            self._clip_before = None if self.clip is None else _copied(self.clip.state_dict())
            factor, found_inf, norm, clipped = self._factor(named)
            outcome = Reading(found_inf, norm, clipped)
            lr = self._lr()
            if self.estimator is not None:
                self.estimator.hand_over(found_inf)
            if has_hooks_before(self.optimizer):  # they see what the update takes
                if isinstance(factor, Tensor):
                    factor = torch.where(found_inf.to(factor.device) != 0, 1.0, factor)
                multiply([tensor.grad for _, tensor in named if tensor.grad is not None], factor)
                factor = 1.0
            self._expect(outcome, found_inf, named)
            with self._inside_update():
                update(self.optimizer, factor, found_inf)
            return self._finish(lr, loss, outcome)

    def _finish(self, lr: float | Reading, loss: Tensor, outcome: Reading) -> Done:
        """Lines 7 to 11."""
        self._count(outcome)
        if not outcome.waits:
            self._settle()
        done = Done(lr, max(1, self._shares.number), Reading(loss), outcome)
        self._begin_anew()
        return done

    def _expect(self, outcome: Reading, found_inf: Tensor | None, named: list[tuple[str, Tensor]]) -> None:
        """The update is about to be made."""
        if self._watch is not None:
            self._watch.happened = False
        last = named[-1][1] if named else None  # the weights that move last
        plain = last is not None and last.device.type == "cpu" and type(last) in (Tensor, torch.nn.Parameter)
        self._sample = (last, _few(last).clone()) if last is not None and plain else None
        self._unrecorded = found_inf
        self._made = outcome

    def _was_made(self) -> bool:
        """Whether the update that was expected has been made: a hook has seen its end, or the last weights moved."""
        if self._made is None:
            return False
        if self._watch is not None and self._watch.happened:
            return True
        return self._sample is not None and not torch.equal(_few(self._sample[0]), self._sample[1])

    def _count(self, outcome: Reading) -> None:
        """The update was made, or skipped; whether it was is known later."""
        self._pending = outcome
        if self._unrecorded is not None:
            if self._scaling is not None:
                self._scaling.record(self.optimizer, self._unrecorded)
            self._unrecorded = None
        if outcome.waits and self.average is not None:  # the next forward pass changes them before line 9 is done
            self._buffers = {name: buffer.detach().clone() for name, buffer in averaged(self._averaged_buffers(), [])}
        self._clip_before = None
        self._made = self._sample = None

    def _settle(self) -> None:
        """Lines 8 and 9 of the last update, once it is known whether it happened."""
        if self._pending is None:
            return
        found_inf = self._pending[0]
        with Held():
            if found_inf != 0:
                self._pending, self._skipped = None, self._skipped + 1
                self._skips.skipped()
                return
            number = self._number + 1
            if self.average is not None and self._averaged_at != number:
                self._average(self.average, number)
            self._averaged_at = number
            self._pending = None  # from here on `_repair` takes the number from the line above
            self._number = number
            self._skips.updated()
            self._average_before = None
        self._write_schedule()

    def _average(self, average: Averages, number: int) -> None:
        """Line 9, unless an interrupted call has done it."""
        last = average.averages[-1] if average.averages else None
        if self._average_before is not None and last is not None and not torch.equal(_few(last), self._average_before):
            return
        self._average_before = _few(last).clone() if last is not None and last.device.type == "cpu" else None
        weights = dict(self._averaged())
        if self._buffers is not None:
            weights.update({name: one for name, one in self._buffers.items() if name in weights})
            self._buffers = None
        average.update(weights, number)

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Around what changes the run: after an exception the run is before the update, or after it."""
        self._made = self._clip_before = None
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
        with Held():
            if self._was_made():
                assert self._made is not None
                self._count(self._made)
            elif self.clip is not None and self._clip_before is not None:
                self.clip.load_state_dict(self._clip_before)
            if self._pending is not None and not self._pending.waits:
                self._settle()
            self._number = max(self._number, self._averaged_at)
            self._begin_anew()
            if self._schedule_at != self._number:
                self._write_schedule()

    def _write_schedule(self) -> None:
        if not self.schedules:
            self._schedule_at = self._number
            return
        groups = self.optimizer.param_groups
        taken_by_hand(self)
        if len(self._initial) < len(groups):  # groups that came later: their lr now is their initial one
            without = {name: one.for_group("") for name, one in self.schedules.items()}
            self._initial += initial_values(without, groups[len(self._initial) :])
        factor = 1.0 if self.plateau is None else self.plateau.factor
        forget(self.optimizer)  # what an interrupted call wrote was not set by hand
        apply(self.schedules, groups, self._initial, self._number, lr_factor=factor)
        note(self.optimizer, self.schedules)
        self._schedule_at = self._number

    def _check_horizon(self) -> None:
        if self._horizon is None or self._number + (self._pending is not None) < self._horizon:
            return
        self._settle()
        if self._number >= self._horizon:
            shown = ", ".join(str(one) for one in self.schedules.values())
            raise UsageError(
                f"Step: the schedule {shown} has {self._horizon} steps and {self._number} updates have happened; "
                "make it longer, or end it with .hold()"
            )

    def _drop_gradients(self) -> None:
        for group in self.optimizer.param_groups:
            for tensor in group["params"]:
                tensor.grad = None

    def _begin_anew(self) -> None:
        self._drop_gradients()
        if self.estimator is not None:
            self.estimator.drop()
        if self._scaling is not None:
            self._scaling.drop()
        self._shares.start_anew()
        self._left.drop()
        self._sync.drop()
        self._before_next()
        self._made = self._unrecorded = self._clip_before = self._sample = None
        self._busy = False

    def _notice_step_beside(self, optimizer: torch.optim.Optimizer) -> None:
        """`optimizer.step()` is about to run, and no Step called it."""
        if optimizer is not self.optimizer:  # before a switch
            return
        if self._shares.number:
            raise UsageError(
                f"Step: optimizer.step() with {self._shares.number} of {self.accumulate} micro-batches of an update in "
                "would apply a part of it; the Step updates by itself: leave optimizer.step() out, or call flush()"
            )
        rates = [group.get("lr") for group in optimizer.param_groups]
        if self._warned_of_step or all(rate is not None and float(rate) == 0 for rate in rates):  # torch.distributed
            return  # .checkpoint makes the state of an optimizer by a step at lr 0
        self._warned_of_step = True
        warnings.warn(
            "Step: optimizer.step() was called beside the Step, which updates by itself: leave it out (schedule, "
            "averages and number count the Step's updates alone)",
            UserWarning,
            stacklevel=4,
        )

    def _check_logits(self, logits: Any) -> None:
        if self.estimator is not None:
            self.estimator.check(logits)
        elif logits is not None:
            raise UsageError("Step: logits have no effect without an estimator; leave them out")

    def _lr(self) -> float | Reading:
        lr = self.optimizer.param_groups[0]["lr"] if "lr" in self.optimizer.param_groups[0] else float("nan")
        return Reading(lr.detach().clone()) if isinstance(lr, Tensor) else float(lr)

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
        if self._shares.number:
            raise UsageError(
                f"Step: {self._shares.number} of {self.accumulate} micro-batches of an update are in; switch after an "
                "update (done.updated), or call flush() first"
            )
        self._settle()
        optimizer, initial = switching.switched(self, to, lr, carry, options)
        self._take(_checked_optimizer(optimizer))
        self._initial = initial
        self._switched = switching.name_of(optimizer)
        self._write_schedule()
        return self.optimizer

    def _take(self, optimizer: torch.optim.Optimizer) -> None:
        """Go on with `optimizer`. The averages follow: Muon has the parameters in an order of its own."""
        names, before = [name for name, _ in self._averaged()], [id(tensor) for _, tensor in self._averaged()]
        estimator = rebound(self._estimator, optimizer, self._sync.group)
        old, self.optimizer = self.optimizer, optimizer
        try:
            if self.average is not None:
                order = [before.index(id(tensor)) for _, tensor in self._averaged()]
                self.average.follow(order, names, [name for name, _ in self._averaged()])
        except BaseException:
            self.optimizer = old
            rebound(self._estimator, old, self._sync.group)
            raise
        self.estimator = estimator
        self._watch = watch(optimizer, self)
        self._counted = Counted()

    # What is known

    @property
    def number(self) -> int:
        """How many updates have happened. Waits for the last one."""
        self._repair()
        self._settle()
        return self._number

    @property
    def skipped(self) -> int:
        """How many updates were skipped because a gradient was not finite. Waits for the last one."""
        self._repair()
        self._settle()
        return self._skipped

    @property
    def passes(self) -> int:
        """How many passes of `batches` have ended, those before the checkpoint that was loaded included.

        >>> for epoch in range(step.passes, epochs):
        ...     for batch in step.batches(loader):
        ...         step(loss_fn(model(batch.x), batch.y))
        """
        return self._places.finished

    @property
    def accumulated(self) -> int:
        """How many micro-batches of the next update are in already."""
        self._repair()
        return self._shares.number

    def observe(self, metric: Any) -> None:
        """Show the Plateau a metric; a lower rate holds from the next update on."""
        if self.plateau is None:
            raise UsageError("Step: observe() needs a plateau; make it with Step(..., plateau=Plateau())")
        self._repair()
        self._settle()
        self.plateau.observe(metric)
        self._write_schedule()

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
        with self.average.swapped_in(dict(self._averaged())), statistics_kept(self.model):
            self._swapped = True
            try:
                yield
            finally:
                self._swapped = False

    def _refuse_inside_averaged(self, what: str) -> None:
        if self._swapped:
            raise UsageError(f"Step: {what}() inside `with step.averaged()` would act on the averages; leave it first")

    # Checkpoints

    def state_dict(self) -> dict[str, Any]:
        """All that the run needs beside the model's weights, between two accumulations.

        The optimizer's state (by name, if it has names), the numbers of updates and skips, the scaler, the averages,
        what clipping, the Plateau and the estimator remember, and the random generators: Python's, NumPy's, torch's on
        the CPU and on every GPU, and those given as `generators`.

        Raises UsageError within an accumulation (its gradients would be lost) and inside `averaged`.
        """
        self._begin("state_dict")
        if self._shares.number:
            raise UsageError(
                f"Step: {self._shares.number} of {self.accumulate} micro-batches of an update are in, and a checkpoint "
                "would lose their gradients; save after an update (done.updated), or call flush() first"
            )
        self._settle()
        return saving.state_dict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` gave. An accumulation that has begun is dropped.

        Raises UsageError naming the first parameter that does not fit, or the part that is missing; then nothing has
        changed.
        """
        self._repair()
        self._refuse_inside_averaged("load_state_dict")
        self._settle()
        with say_of_loaded(self, {}):
            saving.load_state_dict(self, state)

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
        return saving.save(self, path, self._model_to_save(model), keep, extra)

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
        wanted = checked_overrides(self, overrides)
        with say_of_loaded(self, wanted):
            return saving.load(self, path, self._model_to_save(model))

    def _model_to_save(self, model: torch.nn.Module | None) -> torch.nn.Module:
        model = self.model if model is None else _checked_model(model)
        if model is None:
            raise UsageError("Step: pass the model, as step.save(path, model), or make it with Step(..., model=model)")
        return getattr(model, "module", model) if self._sync.group is not None else model

    def _resume(self, number: int, skipped: int) -> None:
        """Take over the counters; the optimizer's groups are those of the checkpoint already."""
        self._begin_anew()
        self._pending = None
        self._number = self._averaged_at = number
        self._skipped = skipped
        self._skips.updated()
        forget(self.optimizer)
        if self.schedules:
            self._initial = initial_values(self.schedules, self.optimizer.param_groups)
            with say_of_factors(self):
                self._write_schedule()
        self._schedule_at = number

    def __repr__(self) -> str:
        parts = [type(self.optimizer).__name__]
        parts += [f"{name}: {one}" for name, one in self.schedules.items()]
        parts += [repr(part) for part in (self.clip, self.average, self.estimator) if part is not None]
        parts += [f"accumulate={self.accumulate}"] if self.accumulate > 1 else []
        return f"Step({', '.join(parts)}, update {self._number})"


def _checked_optimizer(optimizer: Any) -> torch.optim.Optimizer:
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise UsageError(f"Step: optimizer is a {type(optimizer).__name__}; it must be a torch.optim.Optimizer")
    if not any(tensor.requires_grad for group in optimizer.param_groups for tensor in group["params"]):
        raise UsageError("Step: no parameter of the optimizer requires a gradient; is the whole model frozen?")
    return optimizer


def _checked_model(model: Any) -> torch.nn.Module | None:
    if model is not None and not isinstance(model, torch.nn.Module):
        raise UsageError(f"Step: model is a {type(model).__name__}; it must be the torch.nn.Module that is trained")
    return model


def _checked_accumulate(accumulate: Any) -> int:
    return whole("Step", "accumulate", accumulate, least=1)


def _checked_clip(clip_norm: Any, clip: Any) -> Clip | None:
    if clip_norm is not None and clip is not None:
        raise UsageError(f"Step: clip_norm={shown(clip_norm)} and clip={shown(clip)} are both given; give one")
    if clip_norm is not None:
        return ClipNorm(above_zero("Step", "clip_norm", clip_norm))
    if clip is not None and not isinstance(clip, Clip):
        raise UsageError(
            f"Step: clip={shown(clip)}; give ClipValue, AdaptiveClip or AutoClip of stepwell.step, or clip_norm=1.0"
        )
    return clip


def _checked_average(ema: Any, average: Any) -> Averages | None:
    if ema is not None and average is not None:
        raise UsageError(f"Step: ema={shown(ema)} and average={shown(average)} are both given; give one")
    name, given = ("ema", ema) if average is None else ("average", average)
    if given is None or isinstance(given, Averages):
        return given
    return Average(fraction("Step", name, given, do="such as 0.999, the decay; or give Average(...), SWA(...)"))


def _checked_scaler(scaler: Any) -> Any:
    if scaler is None:
        return None
    if not isinstance(scaler, torch.amp.GradScaler):
        raise UsageError(f"Step: scaler is a {type(scaler).__name__}; it must be a torch.amp.GradScaler")
    return scaler if scaler.is_enabled() else None


def _checked_estimator(estimator: Any) -> Estimator | None:
    if estimator is not None and not isinstance(estimator, Estimator):
        raise UsageError(f"Step: estimator is a {type(estimator).__name__}; give one of stepwell.step, or None")
    return estimator


def _checked_schedule_table(schedules: Any) -> dict[str, Schedule]:
    given = mapping("Step", "schedules", schedules, "a dict of schedules by the hyperparameters that they drive")
    for name, one in given.items():
        if not isinstance(name, str) or not isinstance(one, Schedule):
            raise refusal("Step", "schedules", schedules, "a dict of schedules by hyperparameter")
    return given


# What may be set on a Step later, with what reads the value.
_SETTABLE: dict[str, Callable[[Any], Any]] = {
    "optimizer": lambda value: _checked_optimizer(unwrapped(value)),
    "accumulate": _checked_accumulate,
    "clip": lambda value: _checked_clip(None, value),
    "scaler": _checked_scaler,
    "model": _checked_model,
    "generators": checked_generators,
    "average": lambda value: _checked_average(None, value),
    "plateau": lambda value: checked_plateau("Step", value),
    "estimator": _checked_estimator,
    "schedules": _checked_schedule_table,
}


def _horizon(schedules: Mapping[str, Schedule]) -> int | None:
    ends = [one.horizon for one in schedules.values() if one.horizon is not None]
    return min(ends) if ends else None


def _check_loss(loss: Any) -> None:
    if not isinstance(loss, Tensor):
        raise UsageError(f"Step: loss is a {type(loss).__name__}; it must be a scalar tensor with its graph")
    if loss.is_meta or loss.is_sparse or loss.is_complex():
        raise UsageError(f"Step: loss={shown(loss)}; it must be a scalar of real numbers, such as loss.mean()")
    if loss.numel() != 1:
        raise UsageError(f"Step: loss has shape {tuple(loss.shape)}; it must be a scalar, such as loss.mean()")
    if not loss.requires_grad:
        raise UsageError(
            "Step: loss has no graph; was it detached, computed under no_grad, or without a parameter that requires "
            "a gradient?"
        )


def _few(tensor: Tensor) -> Tensor:
    """Some of the weights, which tell whether an update was made."""
    return tensor.detach().reshape(-1)[:64]


def _copied(state: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value.clone() if isinstance(value, Tensor) else value for key, value in state.items()}


def _on(factor: Factor, other: Tensor) -> Factor:
    return factor.to(other.device) if isinstance(factor, Tensor) else factor
