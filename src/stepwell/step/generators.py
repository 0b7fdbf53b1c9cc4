"""The states of all random generators of a run: Python's, NumPy's, torch's on the CPU and every GPU, and named ones."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from stepwell.errors import UsageError


def checked_generators(generators: Mapping[str, Any] | None) -> dict[str, Any]:
    """The generators by name, or UsageError for what is none."""
    if generators is not None and not isinstance(generators, Mapping):
        raise UsageError(
            f"Step: generators is a {type(generators).__name__}; give them by name, as {{'data': generator}}"
        )
    for name, generator in (generators or {}).items():
        if not isinstance(generator, (torch.Generator, np.random.Generator, random.Random)):
            raise UsageError(
                f"Step: generators[{name!r}] is a {type(generator).__name__}; it must be a torch.Generator, "
                "numpy.random.Generator or random.Random"
            )
    return dict(generators or {})


def generator_states(given: Mapping[str, Any]) -> dict[str, Any]:
    """The states of the global generators and of those given, as `weights_only` reads them."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002  # the global one is what must be kept
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [str(kind), torch.tensor(np.asarray(keys).tolist()), int(position), int(has_gauss), float(gauss)],
        "python": _listed(random.getstate()),
        "given": {name: _state_of(generator) for name, generator in given.items()},
    }


def set_generator_states(given: Mapping[str, Any], states: Mapping[str, Any]) -> None:
    """Set the generators to what `generator_states` gave."""
    torch.set_rng_state(states["torch"].cpu())
    if torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([state.cpu() for state in states["cuda"]])
    kind, keys, position, has_gauss, gauss = states["numpy"]
    np.random.set_state((kind, np.array(keys.tolist(), dtype=np.uint32), position, has_gauss, gauss))  # noqa: NPY002
    random.setstate(_tupled(states["python"]))
    for name, generator in given.items():
        state = states["given"][name]
        if isinstance(generator, torch.Generator):
            generator.set_state(state.cpu())
        elif isinstance(generator, np.random.Generator):
            generator.bit_generator.state = _with_arrays(state)
        else:
            generator.setstate(_tupled(state))


def _state_of(generator: Any) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, np.random.Generator):
        return _without_arrays(generator.bit_generator.state)
    return _listed(generator.getstate())


def _listed(state: Any) -> Any:
    return [_listed(item) for item in state] if isinstance(state, tuple) else state


def _tupled(state: Any) -> Any:
    return tuple(_tupled(item) for item in state) if isinstance(state, list) else state


def _without_arrays(state: Any) -> Any:
    """A NumPy generator's state with arrays of unsigned integers as lists under a mark."""
    if isinstance(state, dict):
        return {key: _without_arrays(value) for key, value in state.items()}
    return {"array": state.tolist(), "dtype": str(state.dtype)} if isinstance(state, np.ndarray) else state


def _with_arrays(state: Any) -> Any:
    if isinstance(state, dict) and state.keys() == {"array", "dtype"}:
        return np.array(state["array"], dtype=state["dtype"])
    return {key: _with_arrays(value) for key, value in state.items()} if isinstance(state, dict) else state
