"""The states of all random generators of a run: Python's, NumPy's, torch's on the CPU and every GPU, and the user's by
name."""

from __future__ import annotations

import ctypes
import hashlib
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from stepwell.arguments import mapping, text
from stepwell.errors import UsageError, shown
from stepwell.step.part import PutBack


class Generators:
    """The random generators of a run, for its checkpoints.

    Args:
        given: the user's generators by name, in addition to the global generators.
    """

    def __init__(self, given: Mapping[str, Any] | None) -> None:
        self.given = checked_generators(given)

    def state_dict(self) -> dict[str, Any]:
        return generator_states(self.given)

    def check_state(self, state: Any) -> None:
        check_generator_states(self.given, state)

    def load_state_dict(self, state: Any) -> None:
        set_generator_states(self.given, state)

    def kept(self) -> PutBack:
        state = self.state_dict()
        return lambda: self.load_state_dict(state)


def checked_generators(generators: Mapping[str, Any] | None) -> dict[str, Any]:
    """The generators by name. Raises UsageError if an entry is not a generator."""
    if generators is not None and not isinstance(generators, Mapping):
        raise UsageError(
            f"Step: generators is a {type(generators).__name__}; it must be a dict of generators by name, as "
            f"{{'data': generator}}"
        )
    given = {} if generators is None else mapping("Step", "generators", generators, "generators by name")
    for name, generator in given.items():
        text("Step", "a name of generators", name)
        if not isinstance(generator, (torch.Generator, np.random.Generator, random.Random)):
            raise UsageError(
                f"Step: generators[{shown(name)}] is a {type(generator).__name__}; it must be a torch.Generator, "
                "numpy.random.Generator or random.Random"
            )
    return given


def captured(given: Mapping[str, Any]) -> dict[str, Any]:
    """The states in the generators' own form, fast enough for every batch; `packed` converts them for a file."""
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else [],
        "numpy": _global_numpy(),
        "python": random.getstate(),
        "given": {name: _raw(generator) for name, generator in given.items()},
    }


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> set[str]:
    """The generators that were used between two captures."""
    now = _flat(after)
    return {name for name, state in _flat(before).items() if not _equal(state, now.get(name))}


def packed(states: Mapping[str, Any]) -> dict[str, Any]:
    """Captured states in a form that `weights_only` loads."""
    kind, keys, position, has_gauss, gauss = states["numpy"]
    return {
        "torch": states["torch"],
        "cuda": states["cuda"],
        "numpy": [str(kind), torch.tensor(np.asarray(keys).tolist()), int(position), int(has_gauss), float(gauss)],
        "python": _listed(states["python"]),
        "given": {name: _without_arrays(_listed(state)) for name, state in states["given"].items()},
    }


def generator_states(given: Mapping[str, Any]) -> dict[str, Any]:
    """The states of the global and the given generators, in a form that `weights_only` loads."""
    if torch.cuda.is_available():
        torch.cuda.init()
    return packed(captured(given))


def check_generator_states(given: Mapping[str, Any], states: Any) -> None:
    """Raise UsageError for the first generator whose state cannot be loaded; the generators are not changed."""
    if not isinstance(states, Mapping) or not {"torch", "cuda", "numpy", "python", "given"} <= states.keys():
        raise UsageError("Step: the 'generators' of the checkpoint are incomplete; was it changed after it was saved?")
    if not isinstance(states["given"], Mapping):
        raise UsageError(
            "Step: the 'given' generators of the checkpoint are not a dict; was it changed after it was saved?"
        )
    absent = [name for name in given if name not in states["given"]]
    if absent:
        raise UsageError(
            f"Step: the checkpoint contains no generator '{absent[0]}', so the run would not resume exactly; give the "
            "generators of the saved run"
        )
    scratch = {name: _like(generator) for name, generator in given.items()}
    for name, generator in scratch.items():
        try:
            _set(generator, states["given"][name])
        except Exception as error:
            raise UsageError(
                f"Step: generator '{name}' is a {_kind(given[name])}, and the checkpoint has the state of another "
                "kind; give the generators of the saved run"
            ) from error
    try:
        torch.Generator().set_state(_bytes(states["torch"]))
        if not all(isinstance(state, torch.Tensor) for state in states["cuda"]):
            raise TypeError
        np.random.RandomState().set_state(_numpy(states["numpy"]))
        random.Random().setstate(_tupled(states["python"]))
    except Exception as error:
        raise UsageError(
            "Step: the state of a global random generator in the checkpoint is not valid; was it changed after it was "
            "saved?"
        ) from error


def set_generator_states(given: Mapping[str, Any], states: Mapping[str, Any]) -> None:
    """Set the generators to the states from `generator_states` or `packed`."""
    torch.set_rng_state(_bytes(states["torch"]))
    if torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([state.cpu() for state in states["cuda"]])
    np.random.set_state(_numpy(states["numpy"]))  # noqa: NPY002
    random.setstate(_tupled(states["python"]))
    for name, generator in given.items():
        if name in states["given"]:
            _set(generator, states["given"][name])


def differ_by_rank(states: Mapping[str, Any], rank: int) -> dict[str, Any]:
    """States for a process without saved states: the global generators are reseeded from `states` and the rank.

    The given generators keep their states: processes that share one shuffled order must draw the same order.
    """
    text = _bytes(states["torch"]).numpy().tobytes() + f"rank {rank}".encode()
    digest = hashlib.sha256(text).digest()
    seeds = [int.from_bytes(digest[at : at + 4], "little") for at in (0, 4, 8, 12)]
    devices = [torch.cuda.default_generators[at] for at in range(len(states["cuda"]))] if _as_many(states) else []
    legacy = np.random.RandomState(seeds[2]).get_state()
    result = packed(
        {
            "torch": torch.Generator().manual_seed(seeds[0]).get_state(),
            "cuda": [torch.Generator(one.device).manual_seed(seeds[1]).get_state() for one in devices],
            "numpy": legacy,
            "python": random.Random(seeds[3]).getstate(),
            "given": {},
        }
    )
    return {**result, "given": states["given"]}


_seen: tuple[int, bytes, Any] | None = None  # address and content of NumPy's global state, and the state


def _global_numpy() -> Any:
    """`np.random.get_state()`, which takes 0.27 ms, only where the memory of the generator has changed (2 us)."""
    global _seen
    generator = np.random.get_bit_generator() if hasattr(np.random, "get_bit_generator") else None
    if not isinstance(generator, np.random.MT19937):
        return np.random.get_state()  # noqa: NPY002  # the global one is what must be kept
    address = generator.ctypes.state_address
    content = ctypes.string_at(address, 625 * 4)  # 624 words and the place among them
    # a normal number that is held back is used up without a trace in this memory
    if _seen is None or _seen[:2] != (address, content) or _seen[2][3]:
        _seen = (address, content, np.random.get_state())  # noqa: NPY002
    return _seen[2]


def _as_many(states: Mapping[str, Any]) -> bool:
    return torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count()


def _flat(states: Mapping[str, Any]) -> dict[str, Any]:
    named = {
        "torch's global generator": states["torch"],
        "NumPy's global generator": states["numpy"],
        "Python's global generator": states["python"],
    }
    named |= {f"the generator of GPU {at}": state for at, state in enumerate(states["cuda"])}
    return named | {f"the generator '{name}'": state for name, state in states["given"].items()}


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return np.array_equal(one, other)
    if one is other:
        return True
    if isinstance(one, tuple) and isinstance(other, tuple) and any(isinstance(item, np.ndarray) for item in one):
        return len(one) == len(other) and all(_equal(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    return bool(one == other)


def _bytes(state: Any) -> torch.Tensor:
    if not isinstance(state, torch.Tensor):
        raise TypeError(type(state).__name__)
    return state.cpu()


def _numpy(state: Any) -> Any:
    kind, keys, position, has_gauss, gauss = state
    return kind, np.array(keys.tolist(), dtype=np.uint32), position, has_gauss, gauss


def _set(generator: Any, state: Any) -> None:
    if isinstance(generator, torch.Generator):
        generator.set_state(_bytes(state))
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = _with_arrays(state)
    else:
        generator.setstate(_tupled(state))


def _like(generator: Any) -> Any:
    """Another generator of the same kind, to try a state on."""
    if isinstance(generator, torch.Generator):
        return torch.Generator(generator.device)
    if isinstance(generator, np.random.Generator):
        return np.random.Generator(type(generator.bit_generator)())
    return random.Random()


def _kind(generator: Any) -> str:
    if isinstance(generator, np.random.Generator):
        return f"numpy.random.Generator({type(generator.bit_generator).__name__})"
    return f"{type(generator).__module__.removesuffix('._C')}.{type(generator).__name__}"


def _raw(generator: Any) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.getstate()


def _listed(state: Any) -> Any:
    return [_listed(item) for item in state] if isinstance(state, tuple) else state


def _tupled(state: Any) -> Any:
    return tuple(_tupled(item) for item in state) if isinstance(state, list) else state


def _without_arrays(state: Any) -> Any:
    """A NumPy generator's state, with arrays of unsigned integers as marked lists."""
    if isinstance(state, dict):
        return {key: _without_arrays(value) for key, value in state.items()}
    return {"array": state.tolist(), "dtype": str(state.dtype)} if isinstance(state, np.ndarray) else state


def _with_arrays(state: Any) -> Any:
    if isinstance(state, dict) and state.keys() == {"array", "dtype"}:
        return np.array(state["array"], dtype=state["dtype"])
    return {key: _with_arrays(value) for key, value in state.items()} if isinstance(state, dict) else state
