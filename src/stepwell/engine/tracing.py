"""Steps inside of tracing or function transforms, where tensors have no concrete values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from stepwell.errors import UsageError

_Function = TypeVar("_Function", bound=Callable[..., Any])
_FAKE = torch._C._TorchDispatchModeKey.FAKE


def refuse_tracing(owner: str) -> None:
    """Raise UsageError inside a FakeTensorMode or a function transform (vmap, grad), where a step is meaningless.

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


def untraced(function: _Function) -> _Function:
    """Keep torch.compile out of a function and of all that it calls; the function becomes a break of the graph.

    An update is compiled already, and its addresses mean nothing to a tracer. `torch.compiler.disable` does the same
    and imports the tracer for it, 1.4 s, in programs that compile nothing. The two marks here are those that the
    tracer looks for: one on the function, where traced code calls it, one on its code, where other code does.
    """
    function._torchdynamo_disable = True  # type: ignore[attr-defined]
    function._torchdynamo_disable_msg = "stepwell compiles its updates itself"  # type: ignore[attr-defined]
    tracer = torch._C._dynamo.eval_frame
    if hasattr(tracer, "set_code_exec_strategy"):
        skip = tracer._FrameAction.SKIP
        tracer.set_code_exec_strategy(function.__code__, tracer._FrameExecStrategy(skip, skip))
    elif hasattr(tracer, "skip_code"):  # torch before 2.7: frames below are looked at, and found to be no graphs
        tracer.skip_code(function.__code__)
    return function
