"""Training and evaluation mode, with modules that the user has frozen.

`model.train()` puts every module into training mode, including a batch norm that the user has put into evaluation mode
to keep its statistics (`norm.eval()`, usual in fine-tuning). So this package never calls `model.train()`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _NormBase


def chosen(model: nn.Module) -> bool:
    """Whether the modes of the modules are meaningful: some module is in training mode.

    If all modules are in evaluation mode, `model.eval()` was called on the whole model, which says nothing about a
    single module.
    """
    return any(part.training for part in model.modules())


def is_frozen(norm: nn.Module, model: nn.Module) -> bool:
    """Whether the user has frozen the running statistics of a norm inside `model`.

    A norm is frozen if it is in evaluation mode while other modules are in training mode; or, in a model that is
    entirely in evaluation mode, if it has parameters and none of them requires a gradient.
    """
    if chosen(model):
        return not norm.training
    parameters = list(norm.parameters(recurse=False))
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)


def put_into_training(model: nn.Module) -> None:
    """Put a model into training mode if it is entirely in evaluation mode; otherwise change no mode.

    >>> norm = model[1].eval()
    >>> put_into_training(model)
    >>> norm.training
    False
    """
    if chosen(model):
        return
    frozen = [part for part in model.modules() if isinstance(part, _NormBase) and is_frozen(part, model)]
    model.train()
    for part in frozen:
        part.training = False


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Context manager: evaluation mode inside; restores the mode of every module on exit, also after an exception."""
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
