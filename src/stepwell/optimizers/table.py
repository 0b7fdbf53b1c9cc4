"""The table of the optimizers, and the same names for type checkers: what a new optimizer adds to, twice a line.

`from stepwell.optimizers.table import *` gives a type checker the classes, here and at the door. At run time it gives
nothing: classes are loaded by name, on first use. A test checks that imports and table agree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
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

# Class name -> the file that defines it, in this room unless the line says another. The order is that of all lists and
# pages: relatives stand together. With an underscore, as a star import must give the classes alone.
_TABLE = {
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
