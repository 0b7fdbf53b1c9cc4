"""Training and evaluation mode, where some modules have been frozen by the user.

`model.train()` puts every module into training mode, also a batch norm that the user has set to evaluation mode so that
its statistics stay (`norm.eval()`, the usual way to fine-tune). Nothing of this package calls it for that reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _NormBase


def chosen(model: nn.Module) -> bool:
    """Whether the modes of the modules say what is to be trained: some module is in training mode.

    Where all are in evaluation mode, `model.eval()` was called on the whole, and says nothing about a single one.
    """
    return any(part.training for part in model.modules())


def is_frozen(norm: nn.Module, model: nn.Module) -> bool:
    """Whether the user keeps the running statistics of a norm inside `model` as they are.

    It is in evaluation mode while others train; or, where the whole model is in evaluation mode, it has parameters and
    none of them is trained.
    """
    if chosen(model):
        return not norm.training
    parameters = list(norm.parameters(recurse=False))
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)


def put_into_training(model: nn.Module) -> None:
    """Training mode for a model that is in evaluation mode as a whole; one that trains in part stays as it is.

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
    """Evaluation mode inside; afterwards every module is in the mode that it had, also after an exception."""
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
