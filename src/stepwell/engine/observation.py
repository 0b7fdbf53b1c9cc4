"""`step` under torch's hooks and profiler, if any is active."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.optim.optimizer as torch_optimizer

Step = TypeVar("Step", bound=Callable[..., Any])


def observed(step: Step) -> Step:
    """`step` that runs with its hooks inside a range of torch's profiler, if any hook or profiler is active. Arguments
    are passed as given, because hooks see whether `closure` was passed by name."""
    hooked = torch.optim.Optimizer.profile_hook_step(step)

    @functools.wraps(step)
    def observing(self: Any, *args: Any, **kwargs: Any) -> Any:
        return (hooked if is_observed(self) else step)(self, *args, **kwargs)

    observing.hooked = True  # type: ignore[attr-defined]  # how torch marks a step that has its hooks
    return observing  # type: ignore[return-value]  # a function of the same arguments


def is_observed(optimizer: Any, besides: Callable[[Any], bool] = lambda hook: False) -> bool:
    """Whether hooks or torch's profiler observe the steps of an optimizer; its hooks for which `besides` is True do not
    count."""
    own = [*optimizer._optimizer_step_pre_hooks.values(), *optimizer._optimizer_step_post_hooks.values()]
    return bool(
        not all(map(besides, own))
        or torch_optimizer._global_optimizer_pre_hooks
        or torch_optimizer._global_optimizer_post_hooks
        or torch.autograd._profiler_enabled()
    )
