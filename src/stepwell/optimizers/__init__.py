"""The optimizers, one per file; each reads like its paper. Loaded by name, on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

from stepwell.errors import UsageError, loaded, missing, shown, unknown

if TYPE_CHECKING:
    from stepwell.engine import Optimizer, Params
    from stepwell.optimizers.adabelief import AdaBelief as AdaBelief
    from stepwell.optimizers.adadelta import Adadelta as Adadelta
    from stepwell.optimizers.adafactor import Adafactor as Adafactor
    from stepwell.optimizers.adagrad import Adagrad as Adagrad
    from stepwell.optimizers.adam import Adam as Adam
    from stepwell.optimizers.adamatan2 import AdamAtan2 as AdamAtan2
    from stepwell.optimizers.adamax import Adamax as Adamax
    from stepwell.optimizers.adamw import AdamW as AdamW
    from stepwell.optimizers.adan import Adan as Adan
    from stepwell.optimizers.ademamix import AdEMAMix as AdEMAMix
    from stepwell.optimizers.adopt import ADOPT as ADOPT
    from stepwell.optimizers.asgd import ASGD as ASGD
    from stepwell.optimizers.dadaptadam import DAdaptAdam as DAdaptAdam
    from stepwell.optimizers.lamb import LAMB as LAMB
    from stepwell.optimizers.laprop import LaProp as LaProp
    from stepwell.optimizers.lars import LARS as LARS
    from stepwell.optimizers.lbfgs import LBFGS as LBFGS
    from stepwell.optimizers.lion import Lion as Lion
    from stepwell.optimizers.lowbit import AdamW4bit as AdamW4bit
    from stepwell.optimizers.lowbit import AdamW8bit as AdamW8bit
    from stepwell.optimizers.mars import MARS as MARS
    from stepwell.optimizers.muon import Muon as Muon
    from stepwell.optimizers.nadam import NAdam as NAdam
    from stepwell.optimizers.novograd import NovoGrad as NovoGrad
    from stepwell.optimizers.prodigy import Prodigy as Prodigy
    from stepwell.optimizers.radam import RAdam as RAdam
    from stepwell.optimizers.rmsprop import RMSprop as RMSprop
    from stepwell.optimizers.rprop import Rprop as Rprop
    from stepwell.optimizers.schedulefree_adamw import ScheduleFreeAdamW as ScheduleFreeAdamW
    from stepwell.optimizers.schedulefree_sgd import ScheduleFreeSGD as ScheduleFreeSGD
    from stepwell.optimizers.sgd import SGD as SGD
    from stepwell.optimizers.shampoo import Shampoo as Shampoo
    from stepwell.optimizers.signum import Signum as Signum
    from stepwell.optimizers.soap import SOAP as SOAP
    from stepwell.optimizers.sophia import Sophia as Sophia
    from stepwell.optimizers.sparseadam import SparseAdam as SparseAdam
    from stepwell.optimizers.stableadamw import StableAdamW as StableAdamW
    from stepwell.wrappers.asam import ASAM as ASAM
    from stepwell.wrappers.lookahead import Lookahead as Lookahead
    from stepwell.wrappers.sam import SAM as SAM

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
    "SAM": "wrappers.sam",
    "ASAM": "wrappers.asam",
    "Lookahead": "wrappers.lookahead",
}


def module_of(name: str) -> str:
    """The module that defines an optimizer of the table: in this room, unless its line names another."""
    file = TABLE[name]
    return f"stepwell.{file}" if "." in file else f"stepwell.optimizers.{file}"


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
def create(name: Literal["sam", "SAM"], model_or_params: Params, **options: Any) -> SAM: ...
@overload
def create(name: Literal["asam", "ASAM"], model_or_params: Params, **options: Any) -> ASAM: ...
@overload
def create(name: Literal["lookahead", "Lookahead"], model_or_params: Params, **options: Any) -> Lookahead: ...
@overload
def create(name: Literal["lbfgs", "LBFGS"], model_or_params: Params, **options: Any) -> LBFGS: ...
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
