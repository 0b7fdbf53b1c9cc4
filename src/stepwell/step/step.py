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

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

from stepwell.arguments import flag, function
from stepwell.engine.gradients import Factor, multiply
from stepwell.engine.reading import Reading
from stepwell.engine.tracing import untraced
from stepwell.engine.update import gradient_norm, has_hooks_before, needs_closure, update, update_with
from stepwell.errors import UsageError
from stepwell.step.accumulation import Weight, checked_weight
from stepwell.step.backward import check_loss
from stepwell.step.done import Done
from stepwell.step.estimators import Logits
from stepwell.step.interrupts import Held
from stepwell.step.place import Place, checked_length
from stepwell.step.run import Run

Batch = TypeVar("Batch")


class Step(Run):
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
        check_loss(loss)
        weight = checked_weight(weight)
        retain_graph = flag("Step", "retain_graph", retain_graph)
        self._estimating.check(logits)
        with self._whole():
            changed = None
            if self._shares.number == 0:
                self._check_horizon()
                self._trained.drop_gradients()
            else:
                changed = self._left.check(self._trained.named(), self._shares.number)
            done = self._take_in(loss, weight, retain_graph, logits)
            self._left.warn(changed)
            return done

    def _take_in(self, loss: Tensor, weight: Weight, retain_graph: bool, logits: Logits | None) -> Done:
        """Lines 1 and 2; with the last micro-batch, the others."""
        share = self._shares.next(weight)
        self._estimating.take(loss, logits, weight, self._scaler.given)
        self._backward.run(loss, share, retain_graph)
        mean = self._shares.mean(loss.detach(), weight)
        now = self._places.called()
        if self._shares.number < self._shares.accumulate and not now:
            done = Done(self._trained.lr(), self._shares.number, Reading(mean))
            if self._sync.keeps_gradients_in_place:
                self._left.note(self._trained.named())
            self._before_next()
            self._busy = False
            return done
        return self._update(mean)

    @untraced
    def flush(self) -> Done:
        """Update with an accumulation that is not complete, weighted by what it holds; without one, do nothing.

        Call it after a pass over a loader whose length is no multiple of `accumulate`; `batches` does so itself.
        """
        self._repair(stuck=True)
        if self._shares.number == 0:
            return Done(self._trained.lr(), 0, None)
        self._begin("flush")
        self._sync.check_cut_short()
        with self._whole():
            self._left.warn(self._left.check(self._trained.named(), self._shares.number))
            self._sync.catch_up([tensor for _, tensor in self._trained.named() if tensor.requires_grad])
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
        self._shares.check_length(checked_length(loader))
        return self._look_ahead(self._places.begin(loader, resume))

    def _look_ahead(self, place: Place) -> Iterator[Any]:
        yield from self._places.batches(place, self._repair, self._before_next)
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
        """Lines 1 to 11, where the optimizer takes gradients at several places."""
        loss, found_inf, norm, clipped = self._evaluate(compute, held)
        lr = self._trained.lr()
        outcome = Reading(found_inf, norm, clipped)
        if not found_inf:
            first: list[tuple[Tensor, Tensor]] = [(loss, found_inf)]

            def evaluate() -> tuple[Tensor, Tensor]:
                return first.pop() if first else self._evaluate(compute, held)[:2]

            self._made.expect(outcome, None, self._trained.with_gradient())
            with self._made.inside():
                _, late = update_with(self._trained.optimizer, evaluate)
            outcome = outcome if late is None else Reading(late, norm, clipped)
        return self._finish(lr, loss, outcome)

    def _evaluate(self, compute: Callable[[], Tensor], held: Held) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Loss, flag, norm and whether it was clipped, with the clipped gradients in place."""
        self._trained.drop_gradients()
        with torch.enable_grad():
            with held.released():
                loss = compute()
            check_loss(loss)
            self._backward.run(loss, 1.0, False)
        named = self._trained.with_gradient()
        factor, found_inf, norm, clipped = self._factor(named)
        multiply([tensor.grad for _, tensor in named if tensor.grad is not None], factor)
        return loss.detach(), found_inf, norm, clipped

    def _factor(self, named: list[tuple[str, Tensor]]) -> tuple[Factor, Tensor, Tensor, Tensor]:
        """Lines 3 to 5: the factor for the optimizer, found_inf, the norm, and whether it was clipped."""
        factor = self._scaler.unscaled(self._shares.rest() if self._shares.number else 1.0)
        raw = gradient_norm(self._trained.optimizer, [tensor.grad for _, tensor in named if tensor.grad is not None])
        norm = raw if isinstance(factor, float) and factor == 1.0 else raw * _on(factor, raw)
        found_inf = (~torch.isfinite(norm)).float()
        self._skips.look(named, found_inf, first=self._progress.number == 0)
        factor, clipped = self._clipping.factor(named, factor, norm, found_inf)
        return factor, found_inf, norm, clipped

    @torch.no_grad()
    def _update(self, loss: Tensor) -> Done:
        """Lines 3 to 11, after lines 8 and 9 of the update before."""
        self._settle()
        with Held():
            optimizer, named = self._trained.optimizer, self._trained.with_gradient()
            self._clipping.note()
            factor, found_inf, norm, clipped = self._factor(named)
            outcome = Reading(found_inf, norm, clipped)
            lr = self._trained.lr()
            self._estimating.hand_over(found_inf)
            if has_hooks_before(optimizer):  # they see what the update takes
                if isinstance(factor, Tensor):
                    factor = torch.where(found_inf.to(factor.device) != 0, 1.0, factor)
                multiply([tensor.grad for _, tensor in named if tensor.grad is not None], factor)
                factor = 1.0
            self._made.expect(outcome, found_inf, named)
            with self._made.inside():
                update(optimizer, factor, found_inf)
            return self._finish(lr, loss, outcome)

    def _finish(self, lr: float | Reading, loss: Tensor, outcome: Reading) -> Done:
        """Lines 7 to 11."""
        self._count(outcome)
        if not outcome.waits:
            self._settle()
        done = Done(lr, max(1, self._shares.number), Reading(loss), outcome)
        self._begin_anew()
        return done

    def _check_horizon(self) -> None:
        if self._bound.has_ended():
            self._settle()
            self._bound.check_horizon()

    # What is known

    @property
    def number(self) -> int:
        """How many updates have happened. Waits for the last one."""
        self._repair()
        self._settle()
        return self._progress.number

    @property
    def skipped(self) -> int:
        """How many updates were skipped because a gradient was not finite. Waits for the last one."""
        self._repair()
        self._settle()
        return self._progress.skipped

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

    @property
    def is_between_updates(self) -> bool:
        """Whether no micro-batch of an update is in, and the weights are not their averages."""
        return self.accumulated == 0 and not self._averaging.swapped


def _on(factor: Factor, other: Tensor) -> Factor:
    return factor.to(other.device) if isinstance(factor, Tensor) else factor
