"""Names of a model's tensors without the prefixes that wrappers add.

`torch.compile` adds `_orig_mod.`, DataParallel and DistributedDataParallel `module.`, in any order and number.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

_COMPILED = "_orig_mod"
_PARALLEL = "module."


def bare(names: Iterable[str]) -> dict[str, str]:
    """Each name without prefixes; unchanged names if two names would become equal.

    >>> bare(["module._orig_mod.0.weight", "module._orig_mod.0.bias"])
    {'module._orig_mod.0.weight': '0.weight', 'module._orig_mod.0.bias': '0.bias'}
    """
    given = list(names)
    found = [".".join(part for part in name.split(".") if part != _COMPILED) for name in given]
    # a module of the model's own may be called "module"; as a wrapper, all that has a name is inside
    while found and all(name.startswith(_PARALLEL) and len(name) > len(_PARALLEL) for name in found):
        found = [name.removeprefix(_PARALLEL) for name in found]
    return dict(zip(given, found if len(set(found)) == len(given) else given, strict=True))


def matched(saved: Iterable[str], mine: Iterable[str]) -> dict[str, str]:
    """For each saved name the matching name here, or the saved name if none matches."""
    saved, mine = list(saved), list(mine)
    if set(saved) == set(mine):
        return {name: name for name in saved}
    here = {plain: name for name, plain in bare(mine).items()}
    return {name: here.get(plain, name) for name, plain in bare(saved).items()}


def averaged(buffers: list[tuple[str, Tensor]], parameters: list[tuple[str, Tensor]]) -> list[tuple[str, Tensor]]:
    """The averaged tensors by label: "'0.weight'", or "number 3" for a parameter without a name."""
    plain = bare(name for name, _ in buffers) | bare({name: None for name, _ in parameters if name})
    labels = [f"'{plain[name]}'" for name, _ in buffers]
    labels += [f"'{plain[name]}'" if name else f"number {place}" for place, (name, _) in enumerate(parameters)]
    seen: dict[str, int] = {}
    result = []
    for label, (_, tensor) in zip(labels, [*buffers, *parameters], strict=True):
        seen[label] = seen.get(label, 0) + 1
        result.append((label if seen[label] == 1 else f"{label} ({seen[label]})", tensor))
    return result
