"""The optimizers, one per file; each reads like its paper. Loaded by name, on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

from stepwell.errors import UsageError, loaded, missing, shown, unknown
from stepwell.optimizers.declared import module_of as module_of
from stepwell.optimizers.table import _TABLE

if TYPE_CHECKING:
    from stepwell.engine import Optimizer, Params
    from stepwell.optimizers.table import *  # noqa: F403

TABLE = _TABLE


def _folded(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


_BY_FOLDED = {_folded(name): name for name in TABLE}


def find(name: str) -> type[Any]:
    """The optimizer class called `name`, without regard to case, hyphens and underscores.

    >>> find("adam-w").__name__
    'AdamW'
    """
    if not isinstance(name, str):
        raise UsageError(f"the name of an optimizer is {shown(name)}; it must be a word, as in create('adamw', model)")
    try:
        return _loaded(_BY_FOLDED[_folded(name)])
    except KeyError:
        raise unknown("optimizer", name, TABLE) from None


def known(name: str) -> type[Any] | None:
    """The optimizer class called `name`, as `find` has it; None where there is none."""
    return _loaded(_BY_FOLDED[_folded(name)]) if _folded(name) in _BY_FOLDED else None


@overload
def create(name: Literal["sam", "SAM"], model_or_params: Params, **options: Any) -> SAM: ...  # noqa: F405
@overload
def create(name: Literal["asam", "ASAM"], model_or_params: Params, **options: Any) -> ASAM: ...  # noqa: F405
@overload
def create(name: Literal["lookahead", "Lookahead"], model_or_params: Params, **options: Any) -> Lookahead: ...  # noqa: F405
@overload
def create(name: Literal["lbfgs", "LBFGS"], model_or_params: Params, **options: Any) -> LBFGS: ...  # noqa: F405
@overload
def create(name: str, model_or_params: Params, **options: Any) -> Optimizer: ...
def create(name: str, model_or_params: Any, **options: Any) -> Any:
    """Build an optimizer by name: `create("adamw", model, lr=3e-4)`.

    `model_or_params` is a module, or whatever `torch.optim` takes. What wraps an optimizer takes the name of that as
    `base`, and the options of both: `create("sam", model, base="sgd", rho=0.1, lr=0.3, momentum=0.9)`; an option that
    both have goes to the wrapper. Raises UsageError with the nearest right name for an unknown one, and with the
    options there are for an unknown option.
    """
    cls = find(name)
    return (cls.around if cls.facts.kind == "wrapper" else cls)(model_or_params, **options)


def _loaded(name: str) -> Any:
    value = loaded(module_of(name), name)
    globals()[name] = value
    return value


if not TYPE_CHECKING:  # a checker that saw this function would believe in any name

    def __getattr__(name: str) -> Any:
        if name in TABLE:
            return _loaded(name)
        raise missing("stepwell.optimizers", name, TABLE)


def __dir__() -> list[str]:
    return sorted({*globals(), *TABLE})
