"""One training step in the one right order, and what a run needs around it: clipping, averages, checkpoints.

>>> step = Step(optimizer, schedule=warmup(500).then(cosine(9_500, to=0.1)), clip_norm=1.0, accumulate=4)
>>> for batch in step.batches(loader):
...     done = step(loss_fn(model(batch.x), batch.y))  # done.updated, done.grad_norm, done.lr, done.skipped

The order is at the top of `stepwell.step.step`, and tests hold each of its lines.
"""

from stepwell.step.averages import SWA, Average
from stepwell.step.clipping import AdaptiveClip, AutoClip, Clip, ClipNorm, ClipValue
from stepwell.step.done import Done
from stepwell.step.estimators import Estimator, GaussNewtonBartlett, Hutchinson
from stepwell.step.step import Step

__all__ = [
    "SWA", "AdaptiveClip", "AutoClip", "Average", "Clip", "ClipNorm", "ClipValue", "Done", "Estimator",
    "GaussNewtonBartlett", "Hutchinson", "Step",
]  # fmt: skip
