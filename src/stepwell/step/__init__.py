"""One training step in the correct order, with the clipping, averages and checkpoints that a run needs.

>>> step = Step(optimizer, schedule=warmup(500).then(cosine(9_500, to=0.1)), clip_norm=1.0, accumulate=4)
>>> for batch in step.batches(loader):
...     done = step(loss_fn(model(batch.x), batch.y))  # done.updated, done.grad_norm, done.lr, done.skipped

The docstring of `stepwell.step.step` lists the order; each of its lines is tested.
"""

from stepwell.step.averages import SWA, Average
from stepwell.step.clipping import AdaptiveClip, AutoClip, Clip, ClipNorm, ClipRecentNorm, ClipValue
from stepwell.step.done import Done
from stepwell.step.estimators import Estimator, GaussNewtonBartlett, Hutchinson
from stepwell.step.step import Step

__all__ = [
    "SWA", "AdaptiveClip", "AutoClip", "Average", "Clip", "ClipNorm", "ClipRecentNorm", "ClipValue", "Done",
    "Estimator", "GaussNewtonBartlett", "Hutchinson", "Step",
]  # fmt: skip
