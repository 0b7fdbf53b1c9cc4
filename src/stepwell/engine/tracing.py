"""Steps inside of what traces or transforms PyTorch programs, where tensors have no values of their own."""

from __future__ import annotations

import torch

from stepwell.errors import UsageError

_FAKE = torch._C._TorchDispatchModeKey.FAKE


def refuse_tracing(owner: str) -> None:
    """Raise UsageError inside a FakeTensorMode or a function transform (vmap, grad), where a step has no meaning.

    Two looks at what torch keeps for itself, 0.1 us: a step there would move the real weights, or make a state
    without values that every later step would meet.
    """
    if torch._C._len_torch_dispatch_stack() and torch._C._get_dispatch_mode(_FAKE) is not None:
        raise UsageError(
            f"{owner}: a FakeTensorMode is active, in which tensors have no values; call step() outside of the mode"
        )
    if torch._C._functorch.maybe_current_level() is not None:
        raise UsageError(
            f"{owner}: step() inside a function transform (torch.func.vmap, grad) would update once for all of its "
            "inputs; take the gradients inside, and call step() outside of the transform"
        )
