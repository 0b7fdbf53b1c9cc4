"""The running statistics of batch norm, for weights other than those of training.

Running statistics are valid for the weights with which the batches were processed. Weights that are swapped in
(averages) need their own statistics: `recalibrate`. A gradient at other weights (SAM) must not change the statistics:
`statistics_kept`.
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
    """The modules with running statistics: batch norm, synchronized or not, and instance norm that tracks them."""
    return [part for part in model.modules() if isinstance(part, _NormBase) and part.running_mean is not None]


@contextmanager
def statistics_kept(model: nn.Module | None) -> Iterator[None]:
    """Context manager: restore the running statistics exactly on exit."""
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
    """Recompute the running statistics of batch norm at the current weights, as means over `batches`.

    Use it for weights that were averaged (SWA, EMA) or swapped (Schedule-Free, Lookahead), because the statistics in
    the model are those of the training weights. A model without such norms is unchanged, and no batch is read. Frozen
    norms are
    unchanged as well: a norm in evaluation mode while other modules are in training mode, or, in a model that is
        entirely
    in evaluation mode, a norm with parameters of which none requires a gradient.

    Args:
        model: the module. Its norms process the batches in training mode, all other modules in evaluation mode: unlike
            torch.optim.swa_utils.update_bn, dropout is disabled, as in the later evaluation.
        batches: batches of the training data; a few dozen are enough.
        forward: runs the model on a batch; by default model(batch), model(batch[0]) of a tuple or list, and
            model(**batch) of a dict, with the tensors on the model's device.

    Returns the number of batches read. Raises UsageError if there is no batch. After an error or exception, the
    statistics are unchanged.

    >>> with step.averaged():
    ...     recalibrate(model, loader)
    ...     accuracy = evaluate(model)
    """
    if not isinstance(model, nn.Module):
        raise refusal("recalibrate", "model", model, "the torch.nn.Module whose statistics are recomputed")
    if forward is not None:
        forward = function("recalibrate", "forward", forward, "batch -> output of the model")
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
            raise UsageError("recalibrate: batches is empty; pass a loader of training data")
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
