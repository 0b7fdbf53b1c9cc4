"""The running statistics of batch norm, where the weights are not those that they were taken at.

They belong to the weights with which the batches were seen. Weights that are swapped in (averages) need statistics of
their own: `recalibrate`. A gradient that is taken beside the weights (SAM) must leave them alone: `statistics_kept`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from stepwell.anatomy.modes import is_frozen
from stepwell.arguments import function, refusal
from stepwell.errors import UsageError


def norms_of(model: nn.Module) -> list[_NormBase]:
    """The modules with running statistics: batch norm, synchronised or not, and instance norm that tracks them."""
    return [part for part in model.modules() if isinstance(part, _NormBase) and part.running_mean is not None]


@contextmanager
def statistics_kept(model: nn.Module | None) -> Iterator[None]:
    """Whatever is evaluated inside, the running statistics are bit for bit what they were afterwards."""
    buffers = [] if model is None else [buffer for norm in norms_of(model) for buffer in norm.buffers(recurse=False)]
    kept = [buffer.detach().clone() for buffer in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, values in zip(buffers, kept, strict=True):
                buffer.detach().copy_(values)


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Iterable[Any], forward: Callable[[Any], Any] | None = None) -> int:
    """Take the running statistics of batch norm anew, at the weights as they are: their means over `batches`.

    For weights that were averaged (SWA, EMA) or switched (Schedule-Free, Lookahead): the statistics in the model are
    those of the training weights. Models without such norms are left alone, and no batch is read. So is a norm that
    was frozen: one in evaluation mode while other modules train, or, in a model that is in evaluation mode as a whole,
    one that has parameters of which none requires a gradient.

    Args:
        model: its norms see the batches in training mode, everything else in evaluation mode: unlike in
            torch.optim.swa_utils.update_bn nothing is dropped out, as nothing will be when the model is evaluated.
        batches: of the training data; some dozens are enough.
        forward: runs the model on a batch; by default model(batch), model(batch[0]) of a tuple or list, and
            model(**batch) of a dict, with the tensors on the model's device.

    Returns how many batches were read. Raises UsageError if there was none; the statistics are then what they were, as
    they are after an exception.

    >>> with step.averaged():
    ...     recalibrate(model, loader)
    ...     accuracy = evaluate(model)
    """
    if not isinstance(model, nn.Module):
        raise refusal("recalibrate", "model", model, "the torch.nn.Module whose norms are taken anew")
    if forward is not None:
        forward = function("recalibrate", "forward", forward, "batch -> what the model makes of it")
    norms = [norm for norm in norms_of(model) if not is_frozen(norm, model)]
    if not norms:
        return 0
    try:
        batches = iter(batches)
    except Exception:  # a method of the user's own may raise anything
        raise refusal("recalibrate", "batches", batches, "an iterable of batches, such as a DataLoader") from None
    run = _plain_forward(model) if forward is None else forward
    modes = [(part, part.training) for part in model.modules()]
    momenta = [norm.momentum for norm in norms]
    kept = [(buffer, buffer.detach().clone()) for norm in norms for buffer in norm.buffers(recurse=False)]
    count = 0
    try:
        model.eval()
        for norm in norms:
            norm.train()
            norm.reset_running_stats()
            norm.momentum = None  # the mean over all batches, not a moving one
        for batch in batches:
            run(batch)
            count += 1
        if count == 0:
            raise UsageError(
                "recalibrate: batches: there is none to take statistics of; pass a loader of training data"
            )
    except BaseException:
        for buffer, values in kept:
            buffer.copy_(values)
        raise
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for part, mode in modes:
            part.training = mode
    return count


def _plain_forward(model: nn.Module) -> Callable[[Any], Any]:
    device = next((tensor.device for tensor in model.parameters()), None)

    def there(value: Any) -> Any:
        return value.to(device) if isinstance(value, Tensor) else value

    def forward(batch: Any) -> Any:
        if isinstance(batch, dict):
            return model(**{name: there(value) for name, value in batch.items()})
        return model(there(batch[0] if isinstance(batch, (tuple, list)) else batch))

    return forward
