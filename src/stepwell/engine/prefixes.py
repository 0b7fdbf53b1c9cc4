"""Names of parameters with and without the prefixes of model wrappers: torch.compile, DataParallel, DDP, FSDP,
checkpointing.

Each of these wrappers adds a prefix to every name below the wrapped module ("_orig_mod.0.weight" of a
compiled model, "module.0.weight" of DistributedDataParallel). The parameters are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

# Words that no model of a user has as the name of a module.
_RESERVED = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_fpw_module"})
_MODULE = "module"  # of DataParallel and DistributedDataParallel, and perhaps of a user


def bare(name: str) -> str:
    """The name without the prefixes of wrappers.

    >>> bare("_orig_mod.0.weight")
    '0.weight'
    """
    return ".".join(part for part in name.split(".") if part not in _RESERVED)


def _unwrapped(name: str) -> str:
    return bare(name).removeprefix(f"{_MODULE}.")


def _without_modules(name: str) -> str:
    parts = bare(name).split(".")
    return ".".join([part for part in parts[:-1] if part != _MODULE] + parts[-1:])


# From the least to the most that is taken away: a user's own "module" stays where names fit without taking it away.
_READINGS: tuple[Callable[[str], str], ...] = (str, bare, _unwrapped, _without_modules)


def paired(here: Sequence[str], there: Sequence[str]) -> dict[str, str] | None:
    """For every name in `here` the name in `there` of the same parameter, with any wrappers; None if the names are not
    those of the same model.

    >>> paired(["0.weight"], ["module._orig_mod.0.weight"])
    {'0.weight': 'module._orig_mod.0.weight'}
    """
    for reading in _READINGS:
        mine, theirs = {reading(name): name for name in here}, {reading(name): name for name in there}
        if len(mine) == len(here) and len(theirs) == len(there) and mine.keys() == theirs.keys():
            return {name: theirs[short] for short, name in mine.items()}
    return None
