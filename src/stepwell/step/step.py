"""One training step in the correct order:

 1  backward, with the loss weighted by its share of the accumulated batch; every few updates, before backward, the
    passes that estimate the Hessian (Sophia)
 2  gradient synchronization between processes, only on the last micro-batch
 3  unscale (GradScaler): as a factor, not as a separate pass
 4  the global norm and one flag, whether it is finite; both stay on the device
 5  clip: as a factor passed to the optimizer's kernel
 6  update, under the flag: if a gradient is not finite nothing changes
 7  the scaler's update
 8  schedule, counting updates that happened
 9  averages of the weights (EMA)
10  gradients to None
11  the only point at which a checkpoint may be saved

Gradients are cleared before line 1, so that gradients left by another backward pass (the other network of a GAN) are
not added.

On a GPU nothing waits for the device. The host learns whether update n happened while the device works on step
n + 1. So lines 8 and 9 of update n run just before update n + 1, or when `number`, `averaged`, `state_dict`, ... need
them. The numbers are the same, because the weights have not changed since.

After an exception or an interrupt the run is before an update or after it, never in between. Signal handlers wait
while lines 3 to 9 run. The interrupted call (or the next call) completes an update that was made, and drops the
gradients of an update that was not made.
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
from stepwell.engine.update import Apart, Together, gathered, has_hooks_before, needs_closure, update_with
from stepwell.errors import UsageError, shown
from stepwell.step.accumulation import Weight, checked_weight
from stepwell.step.backward import check_loss
from stepwell.step.done import Done
from stepwell.step.estimators import Logits
from stepwell.step.interrupts import Held
from stepwell.step.place import Place, checked_length
from stepwell.step.release import refuse
from stepwell.step.saved import Saved

Batch = TypeVar("Batch")


class Step(Saved):
    """The training step around an optimizer: backward, accumulation, clipping, update, schedule, averages, checkpoint.

    Args:
        optimizer: an optimizer of stepwell, whose kernel applies clipping and unscaling as a factor; or any optimizer
            of `torch.optim`. For these the factor costs one pass over the gradients (`torch._foreach_mul_`), and on a
            GPU an optimizer that is not fused waits for the flag of line 4. Lightning's `self.optimizers()` is
            unwrapped, and its `global_step` counts the updates of every Step.
        schedule: a schedule for lr, or a dict of schedules (see `stepwell.schedules.apply`). Skipped updates do not
            count.
        clip_norm: maximal Euclidean norm of the whole gradient, above 0; None does not clip.
        accumulate: micro-batches per update, at least 1.
        clip: another way to clip: `ClipValue`, `AdaptiveClip`, `AutoClip`. Cannot be combined with `clip_norm`.
        scaler: a `torch.amp.GradScaler`, for fp16; bf16 needs none.
        ema: decay of an average of the weights; ema=0.999 is short for average=Average(0.999).
        average: an average of the weights: `Average` (exponential), `SWA` (uniform).
        total_steps: updates of the run, if known. Fractions in the schedule are then resolved, and a schedule that does
            not fit the run is refused.
        plateau: a `Plateau` whose factor multiplies lr; pass the metric to `observe`.
        model: the trained module, and the default of `save` and `load`. Needed for a distributed model (line 2), and to
            average the model's floating-point buffers (batch norm's statistics).
        generators: random generators by name, saved with the run in addition to the global generators. Give the
            generator that shuffles a DataLoader, as {"data": generator} (torch.Generator, numpy.random.Generator or
            random.Random).
        estimator: estimator of the Hessian's diagonal for Sophia, `GaussNewtonBartlett` or `Hutchinson`.
        warn_skipped: how many skipped updates in a row cause one warning, which names the first parameter whose
            gradient is not finite; None never warns. Skips by which a fresh scaler finds its scale are not counted.
        group: the processes that train other parameters of the same model, such as the stages of a pipeline
            (`mesh.get_group("pp")`): the norm is that of the gradients of all of them, and all skip together. Not for
            FSDP2, tensor parallelism and DistributedDataParallel, whose norms are known.
        release: update each parameter as soon as its gradient is complete, and free the gradient, so that memory never
            holds the gradients of the whole model. The weights are those of an update of all. Clip by `ClipValue`,
            `AdaptiveClip` or `ClipRecentNorm`; a parameter whose gradient is not finite is left as it is; accumulation
            only with SGD and momentum (see `stepwell.step.release`).

    >>> step = Step(optimizer, warmup(500).then(cosine(9_500, to=0.1)), clip_norm=1.0, accumulate=4)
    >>> for batch in step.batches(loader):
    ...     done = step(loss_fn(model(batch.x), batch.y))

    Micro-batches of unequal size are weighted by the number of samples or tokens that the loss averages over:
    `step(loss, weight=tokens)`. The update then equals that of the whole batch, up to rounding.

    The learning rate may be set by hand between updates, as `group["lr"] = 0.1`. The value is the new base, which the
    schedule multiplies from the next update on; a warning is given if the rate of that update differs from the value.
    The same holds for every scheduled hyperparameter. A schedule that gives values (`.between`) refuses a value set by
    hand.

    The Step replaces all calls around the backward pass of a training loop. Calls left over from such a loop are
    detected: `optimizer.zero_grad()` between micro-batches and `optimizer.step()` within an accumulation are refused. A
    warning is given for `optimizer.step()` elsewhere, and for a torch scheduler that drives lr together with the Step's
    schedule.

    Hooks before the optimizer's step see the gradient that the update uses: unscaled, weighted, clipped. (With such a
    hook, the factor is applied by a separate pass.)

    GANs: use one Step for each network. Each Step clears the gradients that the other network's backward pass left in
    its parameters. If accumulations interleave, freeze the other network during the backward pass. The Steps may share
    a scaler, which is then updated once per round.

    Hooks that free gradients inside the backward pass are refused: clipping by a global norm, skipping and accumulation
    need all gradients together. `release=True` does the same with what is possible then.

    Raises UsageError for arguments out of range, and for a schedule that does not fit.
    """

    @untraced
    def __call__(
        self, loss: Tensor, *, weight: Weight | None = None, retain_graph: bool = False, logits: Logits | None = None
    ) -> Done:
        """Run backward for one micro-batch; on the last micro-batch of an accumulation, update the weights.

        Args:
            loss: a scalar with a graph, the mean over its samples or tokens, unscaled. Call this outside of
                `torch.autocast`.
            weight: weight of this micro-batch relative to the others: the number of samples or tokens that the loss
                averages over. A number above 0, or a tensor of one number, which is not waited for. Without it all
                micro-batches count the same. In a distributed run the mean is that over all processes; pass a weight in
                every process or in none.
            retain_graph: as in `Tensor.backward`, for a graph that is used again.
            logits: logits of this micro-batch, or a function that returns them, for an estimator that draws labels.

        Raises UsageError for a loss that is not a scalar with a graph, for a graph that was freed, if no parameter
        gets a gradient, past the horizon of the schedule, and for an optimizer that needs `closure`. Weights, state and
        schedule are then unchanged, and the accumulation restarts (with `release`, see `stepwell.step.release`).
        """
        self._begin("step")
        if needs_closure(self.optimizer):
            raise UsageError(
                f"Step: {type(self.optimizer).__name__} evaluates the loss several times per update; call "
                "step.closure(lambda: loss_fn(model(x), y)) instead of step(loss)"
            )
        check_loss(loss)
        self._check_release(self.estimator, weighted=weight is not None)
        weight = None if weight is None else checked_weight(weight)
        retain_graph = flag("Step", "retain_graph", retain_graph)
        self._estimating.check(logits)
        for listener in self._listeners:
            listener(loss)
        with self._whole():
            changed = None
            if self._shares.number == 0:
                self._check_horizon()
                self._trained.drop_gradients()
            elif self._release is None:
                changed = self._left.check(self._trained.named(), self._shares.number)
            done = self._micro_batch(loss, weight, retain_graph, logits)
            self._left.warn(changed)
            return done

    def on_loss(self, listener: Callable[[Tensor], None]) -> Callable[[], None]:
        """Call a function with every loss that this Step is given, before its backward pass. `Doctor` listens so.

        Returns a function that ends this.
        """
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def _micro_batch(self, loss: Tensor, weight: Weight | None, retain_graph: bool, logits: Logits | None) -> Done:
        """Lines 1 and 2; on the last micro-batch, the others."""
        if self._shares.number == 0:
            self._agree(weight is not None)
        share = self._shares.next(weight)
        if self._release is not None:
            return self._released(loss, share, weight, retain_graph)
        self._estimating.take(loss, logits, 1 if weight is None else weight, self._scaler.given)
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
    def update(self, loss: Tensor | None = None) -> Done:
        """Update the weights with the gradients that are there, for a loop whose backward pass is run by something
        else: a pipeline schedule, an engine, several losses. Lines 3 to 11 of a Step: clipping, skipping, schedule,
        averages; the gradients are cleared afterwards.

        Args:
            loss: for `done.loss` and for what listens to losses; no backward pass is run on it.

        >>> loss_fn(model(x), y).backward()
        >>> done = step.update()

        With a scaler, run backward on `scaler.scale(loss)`. Raises UsageError within an accumulation (`step(loss)` has
        begun one), without gradients, and for an optimizer that needs `closure`.
        """
        self._begin("step")
        if needs_closure(self.optimizer):
            raise UsageError(
                f"Step: {type(self.optimizer).__name__} evaluates the loss several times per update; call "
                "step.closure(lambda: loss_fn(model(x), y)) instead of step.update()"
            )
        refuse(self._release, "update() takes gradients that are freed inside the backward pass; call step(loss)")
        self._shares.check_none_in("; update() takes gradients that step(loss) has not made, so call step(loss)")
        value = torch.tensor(torch.nan) if loss is None else loss
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise UsageError(f"Step: loss={shown(loss)}; it must be a scalar tensor, or None")
        if loss is not None:
            for listener in self._listeners:
                listener(loss)
        self._check_horizon()
        self._trained.check_gradients()
        with self._whole():
            self._agree(False)
            return self._update(value.detach())

    def _agree(self, has_weight: bool) -> None:
        """Compare what every process must have alike, before the first of them waits for another."""
        settings: dict[str, object] = {"accumulate": self._shares.accumulate, "weight": has_weight}
        if self._stages.group is None:  # the stages of a pipeline may have different ones
            settings["the optimizer"] = type(self._trained.optimizer).__name__
            settings["lr at the start"] = self._first_rates
        self._agreement.settings(settings)

    @untraced
    def flush(self) -> Done:
        """Apply a partial accumulation, averaged over the micro-batches seen so far. Does nothing without an
        accumulation.

        Call `flush` after a pass over a loader whose length is not a multiple of `accumulate`; `batches` calls it
        itself.
        """
        self._repair(stuck=True)
        if self._shares.number == 0:
            return Done(self._trained.lr(), 0, None)
        refuse(self._release, f"{self._shares} of an update cannot end it; take batches whose number divides evenly")
        self._begin("flush")
        self._sync.check_cut_short()
        with self._whole():
            self._left.warn(self._left.check(self._trained.named(), self._shares.number))
            self._sync.catch_up([tensor for _, tensor in self._trained.named() if tensor.requires_grad])
            return self._update(self._shares.mean_so_far())

    def batches(self, loader: Iterable[Batch], *, resume: bool = True) -> Iterator[Batch]:
        """The batches of one pass over `loader`. The last batch completes the last accumulation, even if it is shorter.

        Looks one batch ahead, so that a distributed model synchronizes on the last batch. A batch may be passed to the
        Step in several micro-batches. If the last batch has fewer or more micro-batches than the others, the pass ends
        with a `flush()`.

        A checkpoint that is saved inside the loop resumes there: after `load`, the first call of `batches` gives the
        remaining batches in the order of the saved pass, and training resumes bit for bit. A DataLoader draws the
        indices again and loads no batch twice (random draws inside its workers are not restored); a loader with
        `load_state_dict` (torchdata's StatefulDataLoader) restores its own position; any other iterable is iterated
        again and its first batches are skipped. Give the Step every generator that the loader uses, as
        generators={...}. A loop that skips the same number of batches by itself is detected.

        Args:
            loader: after a checkpoint was loaded, the same loader, in its state at the beginning of the pass.
            resume: whether to resume the pass of the checkpoint; False starts a new pass.

        Raises UsageError for a loader that is shorter than one accumulation, and for a loader that differs from that of
        the checkpoint's pass. `save` raises UsageError inside a pass that cannot be resumed: a pass over an iterator,
        and a pass whose batches are drawn from a generator that training also uses.
        """
        resume = flag("Step", "resume", resume)
        length = checked_length(loader)
        self._shares.check_length(length)
        self._agreement.length(length)
        return self._look_ahead(self._places.begin(loader, resume))

    def _look_ahead(self, place: Place) -> Iterator[Any]:
        yield from self._places.batches(place, self._repair, self._before_next)
        self.flush()  # what the last batch left

    @untraced
    def closure(self, compute: Callable[[], Tensor]) -> Done:
        """One update of an optimizer that evaluates the gradient several times (L-BFGS, SAM).

        Args:
            compute: a function that computes the loss and returns it, without backward: `closure` runs backward and
                clips at each evaluation. The update is skipped if the gradient of the first evaluation is not finite,
                or (SAM) that of a later evaluation. L-BFGS continues its search instead.

        >>> done = step.closure(lambda: loss_fn(model(x), y))

        Raises UsageError with `accumulate` above 1 or a scaler: both need the gradient before the update.
        """
        function("Step", "compute", compute, "it takes no arguments and returns the loss")
        self._begin("closure")
        if self.accumulate != 1 or self.scaler is not None:
            what = "a scaler" if self.scaler is not None else f"accumulate={self.accumulate}"
            raise UsageError(
                f"Step: closure() cannot be combined with {what}; let the closure compute the loss of the whole batch"
            )
        if self.estimator is not None:
            raise UsageError(
                f"Step: closure() makes no estimates of the Hessian, which {self.estimator} needs; call step(loss)"
            )
        self._check_horizon()
        with self._whole():
            self._settle()
            with Held() as held:
                return self._closure(compute, held)

    def _closure(self, compute: Callable[[], Tensor], held: Held) -> Done:
        """Lines 1 to 11, for an optimizer that evaluates the gradient several times."""
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
        """Loss, flag, norm and whether clipping changed the gradient; the gradients are clipped in place."""
        self._trained.drop_gradients()
        with torch.enable_grad():
            with held.released():
                loss = compute()
            check_loss(loss)
            self._backward.run(loss, 1.0, False)
        named = self._trained.with_gradient()
        factor, found_inf, norm, clipped = self._factor(named, Apart(self._trained.optimizer))
        multiply([tensor.grad for _, tensor in named if tensor.grad is not None], factor)
        return loss.detach(), found_inf, norm, clipped

    def _factor(self, named: list[tuple[str, Tensor]], step: Together | Apart) -> tuple[Factor, Tensor, Tensor, Tensor]:
        """Lines 3 to 5: the factor for the optimizer, found_inf, the norm, and whether clipping changed the
        gradient."""
        factor = self._scaler.unscaled(self._shares.rest() if self._shares.number else 1.0)
        raw = self._stages.whole(step.norm([tensor.grad for _, tensor in named if tensor.grad is not None]))
        norm = raw if isinstance(factor, float) and factor == 1.0 else raw * _on(factor, raw)
        found_inf = (~torch.isfinite(norm)).float()
        self._skips.look(named, found_inf, first=self._progress.number == 0)
        factor, clipped = self._clipping.factor(named, factor, norm, found_inf)
        return factor, found_inf, norm, clipped

    @torch.no_grad()
    def _update(self, loss: Tensor) -> Done:
        """Lines 3 to 11, after lines 8 and 9 of the previous update."""
        self._settle()
        with Held():
            optimizer, named = self._trained.optimizer, self._trained.with_gradient()
            self._clipping.note()
            alone = self._clipping.leaves_gradients and self.estimator is None
            with gathered(optimizer, alone) as step:
                factor, found_inf, norm, clipped = self._factor(named, step)
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
                    step.update(factor, found_inf)
            return self._finish(lr, loss, outcome)

    def _check_horizon(self) -> None:
        if self._bound.has_ended():
            self._settle()
            self._bound.check_horizon()


def _on(factor: Factor, other: Tensor) -> Factor:
    return factor.to(other.device) if isinstance(factor, Tensor) else factor
