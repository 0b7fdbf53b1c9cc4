"""One update of any optimizer: of stepwell, of torch.optim, or a wrapper.

Besides the gradients, an update has three possible inputs: a factor (unscaling, clipping), a flag (nothing changes if
it is not 0), and a function that computes the gradients. Optimizers that do not accept one of these inputs are
supported by the functions of this module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.optim.optimizer as torch_optimizer
from torch import Tensor

from stepwell.engine.gathered import Gathered
from stepwell.engine.gradients import Factor, global_norm, multiply
from stepwell.engine.observation import is_observed
from stepwell.engine.optimizer import Optimizer

# Computes loss and gradients anew, and whether a gradient is not finite (1 or 0; None where nobody looks).
Evaluate = Callable[[], tuple[Any, Tensor | None]]


def takes_factor(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the optimizer has `update(factor, found_inf)`: an optimizer or wrapper of stepwell."""
    return isinstance(optimizer, Optimizer) or wraps_another(optimizer)


def needs_closure(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a step of the optimizer evaluates the loss itself."""
    return isinstance(optimizer, torch.optim.LBFGS) or bool(getattr(optimizer, "needs_closure", False))


def wraps_another(optimizer: Any) -> bool:
    """Whether the optimizer wraps another optimizer, its `base`."""
    return bool(getattr(optimizer, "takes_factor", False))


def innermost(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer that updates the weights, inside all wrappers."""
    while wraps_another(optimizer):
        optimizer = optimizer.base  # type: ignore[attr-defined]  # it is a wrapper
    return optimizer


def gradient_norm(optimizer: torch.optim.Optimizer, gradients: Sequence[Tensor]) -> Tensor:
    """The norm of all gradients as one vector; by one pass of a kernel for optimizers of stepwell."""
    inner = innermost(optimizer)
    return inner.gradient_norm() if isinstance(inner, Optimizer) else global_norm(gradients)


@contextmanager
def gathered(optimizer: torch.optim.Optimizer, alone: bool) -> Iterator[Together | Apart]:
    """The norm of the gradients and the update that follows it, with `norm(gradients)` and `update(factor, found_inf)`.

    For an optimizer of stepwell, gradients and addresses are looked up once for both, unless a hook or a profiler looks
    on. `alone` means that only groups and the values of gradients change in between.
    """
    own = isinstance(optimizer, Optimizer) and innermost(optimizer) is optimizer and _has_our_update(optimizer)
    if not (alone and own) or is_observed(optimizer, besides=_reads_no_gradient):
        yield Apart(optimizer)
        return
    with optimizer.gathered() as found:  # type: ignore[attr-defined]  # it is one of ours
        yield Together(optimizer, found)
    optimizer._opt_called = True  # type: ignore[attr-defined]  # a torch scheduler beside a Step looks for it


def _has_our_update(optimizer: Any) -> bool:
    """Whether `update` is ours, and not one of a subclass or one that somebody has set."""
    return getattr(optimizer.update, "__func__", None) is Optimizer.update


def _reads_no_gradient(hook: Any) -> bool:
    """Whether a hook is one of a Step, which only notes that `step` was called."""
    return bool(getattr(hook, "reads_no_gradient", False))


class Together:
    """A norm and an update with gradients and addresses that were looked up once."""

    def __init__(self, optimizer: torch.optim.Optimizer, found: Gathered) -> None:
        self._optimizer, self._found = optimizer, found

    def norm(self, gradients: Sequence[Tensor]) -> Tensor:
        """See `gradient_norm`."""
        return self._found.norm()

    def update(self, factor: Factor = 1.0, found_inf: Tensor | None = None) -> None:
        """See `update`."""
        for before in list(self._optimizer._optimizer_step_pre_hooks.values()):
            before(self._optimizer, (), {})
        self._found.update(factor, found_inf)
        for after in list(self._optimizer._optimizer_step_post_hooks.values()):
            after(self._optimizer, (), {})


class Apart:
    """A norm and an update without shared data."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer

    def norm(self, gradients: Sequence[Tensor]) -> Tensor:
        """See `gradient_norm`."""
        return gradient_norm(self._optimizer, gradients)

    def update(self, factor: Factor = 1.0, found_inf: Tensor | None = None) -> None:
        """See `update`."""
        update(self._optimizer, factor, found_inf)


def update(optimizer: Any, factor: Factor = 1.0, found_inf: Tensor | None = None) -> None:
    """Update with the current gradients times `factor`. If `found_inf` is not 0, nothing changes.

    torch's optimizers do not accept a factor: their gradients are multiplied in place. On a GPU, a torch optimizer that
    is not fused waits for the flag.
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
    """Whether the user has hooks that run before an update of `optimizer` or of an inner optimizer."""
    if not takes_factor(optimizer):
        return False  # its gradients are final by then anyway
    while True:
        hooks = [*torch_optimizer._global_optimizer_pre_hooks.values(), *optimizer._optimizer_step_pre_hooks.values()]
        if not all(map(_reads_no_gradient, hooks)):
            return True
        if not wraps_another(optimizer) or not hasattr(optimizer.base, "_optimizer_step_pre_hooks"):
            return False
        optimizer = optimizer.base


def update_with(optimizer: Any, evaluate: Evaluate) -> tuple[Any, Tensor | None]:
    """Update with an optimizer that evaluates the gradients itself, at several points.

    Returns the loss of the first evaluation, and whether the update was skipped (1 or 0) because the deciding gradient
    was not finite; None if that was not checked, or if the optimizer decides itself (L-BFGS).
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
    """A step of torch's L-BFGS. If an evaluation raises, torch leaves the weights somewhere on its path; after a NaN
    loss it makes all weights NaN. Here, as in stepwell's L-BFGS, an exception changes nothing, and after a NaN loss the
    optimizer restarts."""
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
    """A copy of the values that a step of torch's L-BFGS changes in place (not the tensors of its history)."""
    if isinstance(value, list):
        return list(value)
    return value.clone() if name == "prev_flat_grad" and isinstance(value, Tensor) else value


@torch.no_grad()
def _put_back(optimizer: Any, weights: list[Tensor], state: dict[Any, Any]) -> None:
    optimizer._set_param(weights)
    optimizer.state.clear()
    optimizer.state.update(state)


def hooked(optimizer: torch.optim.Optimizer, act: Callable[[], Any]) -> Any:
    """Run `act` with the hooks of `optimizer.step()`."""
    pre, post = optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks
    for before in [*torch_optimizer._global_optimizer_pre_hooks.values(), *pre.values()]:
        before(optimizer, (), {})
    result = act()
    optimizer._opt_called = True  # type: ignore[attr-defined]  # a torch scheduler beside a Step looks for it
    for after in [*post.values(), *torch_optimizer._global_optimizer_post_hooks.values()]:
        after(optimizer, (), {})
    return result
