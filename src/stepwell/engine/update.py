"""One update of any optimizer: of stepwell, of torch.optim, and those that wrap another one.

Three things can be handed to an update beside the gradients: a factor (unscaling, clipping), a flag (where it is not 0
nothing changes), and a way to compute the gradients anew. What cannot take one of them itself is served here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.optim.optimizer as torch_optimizer
from torch import Tensor

from stepwell.engine.gradients import Factor, global_norm, multiply
from stepwell.engine.optimizer import Optimizer

# Computes loss and gradients anew, and whether a gradient is not finite (1 or 0; None where nobody looks).
Evaluate = Callable[[], tuple[Any, Tensor | None]]


def takes_factor(optimizer: torch.optim.Optimizer) -> bool:
    """Whether `optimizer.update(factor, found_inf)` is there: those of stepwell, and what wraps another."""
    return isinstance(optimizer, Optimizer) or wraps_another(optimizer)


def needs_closure(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a step of it evaluates the loss itself, at places of its own."""
    return isinstance(optimizer, torch.optim.LBFGS) or bool(getattr(optimizer, "needs_closure", False))


def wraps_another(optimizer: Any) -> bool:
    """Whether it is an optimizer around another one, its `base`."""
    return bool(getattr(optimizer, "takes_factor", False))


def innermost(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer that moves the weights, inside all that wrap it."""
    while wraps_another(optimizer):
        optimizer = optimizer.base  # type: ignore[attr-defined]  # it is a wrapper
    return optimizer


def gradient_norm(optimizer: torch.optim.Optimizer, gradients: Sequence[Tensor]) -> Tensor:
    """The norm of all gradients as one vector: by one pass of a kernel where the weights are moved by one of ours."""
    inner = innermost(optimizer)
    return inner.gradient_norm() if isinstance(inner, Optimizer) else global_norm(gradients)


def update(optimizer: Any, factor: Factor = 1.0, found_inf: Tensor | None = None) -> None:
    """Update with the gradients that are there, times `factor`; where `found_inf` is not 0, nothing changes.

    Optimizers of torch cannot take the factor: their gradients are multiplied, in place. On a GPU one of them that is
    not fused waits for the flag.
    """
    if takes_factor(optimizer):
        hooked(optimizer, lambda: optimizer.update(factor, found_inf))
        return
    tensors = [tensor for group in optimizer.param_groups for tensor in group["params"]]
    multiply([tensor.grad for tensor in tensors if tensor.grad is not None], factor)
    if found_inf is None:
        optimizer.step()
    elif all(group.get("fused") for group in optimizer.param_groups):
        optimizer.grad_scale, optimizer.found_inf = None, found_inf
        try:
            optimizer.step()
        finally:
            del optimizer.grad_scale, optimizer.found_inf
    elif not found_inf:
        optimizer.step()


def has_hooks_before(optimizer: Any) -> bool:
    """Whether something of the user's looks at an update of `optimizer`, or of one inside it, before it is made."""
    if not takes_factor(optimizer):
        return False  # its gradients are final by then anyway
    while True:
        hooks = [*torch_optimizer._global_optimizer_pre_hooks.values(), *optimizer._optimizer_step_pre_hooks.values()]
        if any(not getattr(hook, "reads_no_gradient", False) for hook in hooks):
            return True
        if not wraps_another(optimizer) or not hasattr(optimizer.base, "_optimizer_step_pre_hooks"):
            return False
        optimizer = optimizer.base


def update_with(optimizer: Any, evaluate: Evaluate) -> tuple[Any, Tensor | None]:
    """Update by computing the gradients as often and where the optimizer wants them.

    Returns the loss of the first evaluation, and whether the update was left out (1 or 0) because the gradient that
    decides was not finite; None where nobody looked, or where the optimizer judges by itself (L-BFGS).
    """
    if wraps_another(optimizer):
        return hooked(optimizer, lambda: optimizer.update_with(evaluate))
    if isinstance(optimizer, Optimizer):
        loss, found_inf = evaluate()
        update(optimizer, 1.0, found_inf)
        return loss, found_inf
    if type(optimizer) is torch.optim.LBFGS:
        return _torch_lbfgs(optimizer, lambda: evaluate()[0]), None
    return optimizer.step(lambda: evaluate()[0]), None


def _torch_lbfgs(optimizer: Any, closure: Callable[[], Any]) -> Any:
    """A step of torch's L-BFGS, which leaves the weights somewhere on its path if an evaluation raises, and makes all
    of them NaN after a loss that is. As ours does: the first changes nothing, after the second it begins anew."""
    weights = optimizer._clone_param()
    state = {
        tensor: {name: _held(name, value) for name, value in kept.items()} for tensor, kept in optimizer.state.items()
    }
    try:
        loss = optimizer.step(closure)
    except BaseException:
        _put_back(optimizer, weights, state)
        raise
    if not all(bool(torch.isfinite(tensor).all()) for tensor in optimizer._params):
        _put_back(optimizer, weights, {})
    return loss


def _held(name: str, value: Any) -> Any:
    """A copy of what a step of torch's L-BFGS changes in place; the tensors of its history it does not."""
    if isinstance(value, list):
        return list(value)
    return value.clone() if name == "prev_flat_grad" and isinstance(value, Tensor) else value


@torch.no_grad()
def _put_back(optimizer: Any, weights: list[Tensor], state: dict[Any, Any]) -> None:
    optimizer._set_param(weights)
    optimizer.state.clear()
    optimizer.state.update(state)


def hooked(optimizer: torch.optim.Optimizer, act: Callable[[], Any]) -> Any:
    """Run `act` with the hooks that torch runs around `optimizer.step()`."""
    pre, post = optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks
    for before in [*torch_optimizer._global_optimizer_pre_hooks.values(), *pre.values()]:
        before(optimizer, (), {})
    result = act()
    optimizer._opt_called = True  # type: ignore[attr-defined]  # a torch scheduler beside a Step looks for it
    for after in [*post.values(), *torch_optimizer._global_optimizer_post_hooks.values()]:
        after(optimizer, (), {})
    return result
