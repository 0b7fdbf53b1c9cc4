"""Where the state of an optimizer is, and how large it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from stepwell.arguments import refusal
from stepwell.engine import formats, host, sharding
from stepwell.engine.bytes import held_in_state
from stepwell.engine.slots import trust
from stepwell.errors import UsageError, shown


class StatePlace:
    """The part of an optimizer that creates its state and moves it."""

    param_groups: list[dict[str, Any]]
    state: Any
    signatures: ClassVar[Mapping[str, Any]]
    takes_estimates: ClassVar[bool]
    modes: ClassVar[tuple[str, ...]]
    state_device: str | None  # "cpu": state stays there, for parameters on a GPU
    is_away: bool = False  # whether `offload` has moved the state, and nothing has brought it back
    _lock: Any
    _kept: Any

    def make_state(self) -> None:
        """Create the state of every parameter, as before its first update: a distributed checkpoint is loaded into the
        state that is there."""
        optimizer: Any = self
        with self._lock:
            (optimizer._plan or optimizer.make_plan()).begin()

    def state_bytes(self) -> int:
        """Bytes of the slots, without the step counts."""
        return held_in_state(self.state)

    def offload(self, device: str | torch.device = "cpu") -> None:
        """Move the state elsewhere while the optimizer is not needed (an evaluation, the generation of texts between
        two phases of reinforcement learning), so that its memory is free. The next update, or `onload`, brings the
        state back; no bit of it changes.

        Args:
            device: where to, as "cpu".

        >>> optimizer.offload("cpu")
        >>> optimizer.onload()  # or the next update

        Raises UsageError for a device that is not there, and for sharded parameters. Nothing is moved then.
        """
        self._move(_device(type(self).__name__, device))
        self.is_away = True

    def onload(self) -> None:
        """Bring the state back from where `offload` has moved it: to the device of each parameter, or to the CPU with
        `state_device="cpu"`."""
        self._move(None)
        self.is_away = False

    def bring_back(self) -> None:
        """`onload`, if the state is away."""
        if self.is_away:
            self.onload()

    def _move(self, device: torch.device | None) -> None:
        name = type(self).__name__
        with self._lock:
            entries = [(p, state) for p, state in self.state.items() if isinstance(p, Tensor) and state]
            if any(sharding.is_spread(parameter) for parameter, _ in entries):
                raise UsageError(
                    f"{name}: the state of sharded parameters cannot be moved by offload(); FSDP2 has "
                    "fully_shard(..., offload_policy=CPUOffloadPolicy())"
                )
            slots = [slot.name for signature in self.signatures.values() for slot in signature.slots]
            own = {formats.LOW_BITS, *slots, *(f"{name}_largest" for name in slots)}  # not what a user has put there
            self._kept.plan = None  # which holds the tensors
            for parameter, state in entries:
                home = torch.device("cpu") if self.state_device and host.is_apart(parameter) else parameter.device
                for key, value in list(state.items()):
                    if key in own and isinstance(value, Tensor) and value.numel() > 1:
                        state[key] = value.to(home if device is None else device)
            trust(self.state)

    def _state_device(self, options: dict[str, Any]) -> str | None:
        """The option `state_device`, or UsageError."""
        value = options.pop("state_device", None)
        if value not in (None, "cpu"):
            raise refusal(type(self).__name__, "state_device", value, "'cpu', or None for the device of each parameter")
        return value

    def _check_state_device(self) -> None:
        """Raise UsageError where state in the memory of the CPU is not possible, or nothing else."""
        tensors = [tensor for group in self.param_groups for tensor in group["params"]]
        if self.state_device is None:
            return
        if any(map(sharding.is_spread, tensors)):
            reason = "these are sharded; FSDP2 has fully_shard(..., offload_policy=CPUOffloadPolicy())"
        elif not any(map(host.is_apart, tensors)):
            reason = f"these are on the {tensors[0].device.type} device, and their state is with them; omit it"
        elif self.takes_estimates or self.modes:
            reason = "this optimizer works with weights and state outside of updates, too; use offload() between phases"
        else:
            return
        raise UsageError(f"{type(self).__name__}: state_device='cpu' is for parameters on a GPU: {reason}")


def _device(owner: str, given: Any) -> torch.device:
    """A device that has memory, or UsageError."""
    try:
        device = torch.device(given)
        torch.empty(1, device=device)
    except (RuntimeError, TypeError, AssertionError) as error:  # AssertionError: torch was built without CUDA
        reason = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        raise UsageError(f"{owner}: device={shown(given)} is not there ({reason}); as 'cpu'") from None
    if device.type == "meta":
        raise refusal(owner, "device", given, "a device where tensors have values, as 'cpu'")
    return device
