"""What the files of the optimizers declare and a description of a training problem is read with."""

from __future__ import annotations

from stepwell.optimizers.declared import declared


def usual(optimizer: str, kind: str | None = None) -> tuple[float, float]:
    """The usual learning rates of an optimizer of the catalogue, (low, high), for a kind of training if known."""
    return declared(optimizer).usual_lr(kind)


def follows_gradient(optimizer: str | None) -> bool:
    """Whether the step of an element is in proportion to its gradient, as that of gradient descent."""
    return optimizer is not None and declared(optimizer).step_length() == "gradient"


def adam_type(optimizer: str | None) -> bool:
    """Whether the step of an element is near lr whatever the size of its gradient, and more than a sign."""
    return optimizer is not None and declared(optimizer).step_length() == "lr" and declared(optimizer).method != "sign"


def adam_eps(optimizer: str) -> bool:
    """Whether eps is beside a running size of gradients, as that of Adam."""
    return adam_type(optimizer) and declared(optimizer).eps_bounds_steps()
