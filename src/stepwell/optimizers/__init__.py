"""The optimizers, one per file; each reads like its paper. Loaded by name, on first use."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from stepwell.errors import UsageError, shown, unknown

# class name -> the file that defines it: the one line that a new optimizer adds
TABLE = {
    "SGD": "sgd",
    "Adam": "adam",
    "AdamW": "adamw",
    "RMSprop": "rmsprop",
    "Adagrad": "adagrad",
    "Lion": "lion",
    "LAMB": "lamb",
    "LARS": "lars",
    "NovoGrad": "novograd",
    "StableAdamW": "stableadamw",
    "Adadelta": "adadelta",
    "Adamax": "adamax",
    "NAdam": "nadam",
    "RAdam": "radam",
    "ASGD": "asgd",
    "Rprop": "rprop",
    "Signum": "signum",
    "AdaBelief": "adabelief",
    "Adan": "adan",
    "ADOPT": "adopt",
    "AdEMAMix": "ademamix",
    "LaProp": "laprop",
    "AdamAtan2": "adamatan2",
    "AdamW8bit": "lowbit",
    "AdamW4bit": "lowbit",
    "ScheduleFreeSGD": "schedulefree_sgd",
    "ScheduleFreeAdamW": "schedulefree_adamw",
    "Sophia": "sophia",
    "MARS": "mars",
    "SparseAdam": "sparseadam",
    "Prodigy": "prodigy",
    "DAdaptAdam": "dadaptadam",
    "Adafactor": "adafactor",
    "Muon": "muon",
    "Shampoo": "shampoo",
    "SOAP": "soap",
    "LBFGS": "lbfgs",
    "SAM": "sam",
    "ASAM": "asam",
    "Lookahead": "lookahead",
}


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
        return __getattr__(_BY_FOLDED[_folded(name)])
    except KeyError:
        raise unknown("optimizer", name, TABLE) from None


def create(name: str, model_or_params: Any, **options: Any) -> Any:
    """Build an optimizer by name: `create("adamw", model, lr=3e-4)`.

    `model_or_params` is a module, or whatever `torch.optim` takes. What wraps an optimizer takes the name of that as
    `base`, and the options of both: `create("sam", model, base="sgd", rho=0.1, lr=0.3, momentum=0.9)`; an option that
    both have goes to the wrapper. Raises UsageError with the nearest right name for an unknown one, and with the
    options there are for an unknown option.
    """
    cls = find(name)
    return (cls.around if cls.facts.kind == "wrapper" else cls)(model_or_params, **options)


def __getattr__(name: str) -> Any:
    if name in TABLE:
        value = getattr(import_module(f"stepwell.optimizers.{TABLE[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'stepwell.optimizers' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *TABLE})
