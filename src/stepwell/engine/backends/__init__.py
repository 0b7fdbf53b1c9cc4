"""The backends, which run updates. Each is a module with `refusal`, `prepare`, `measure`, `squares`, `run` and
`finish`."""

from __future__ import annotations

from types import ModuleType

from stepwell.engine.backends import cpu, eager, empty, gpu, stacks, subclasses

BACKENDS: dict[str, ModuleType] = {"gpu": gpu, "cpu": cpu, "eager": eager}
STACKS: dict[str, ModuleType] = {"stacks": stacks}  # what runs matrix rules, on any device
EMPTY: dict[str, ModuleType] = {"empty": empty}  # what counts the steps of tensors without elements
SUBCLASSES: dict[str, ModuleType] = {"subclasses": subclasses}  # what updates tensors that wrap others


def backends_for(device: str) -> dict[str, ModuleType]:
    """The backends for elementwise rules on a type of device, fastest first."""
    names = ("cpu", "eager") if device == "cpu" else ("gpu", "eager")
    return {name: BACKENDS[name] for name in names}
