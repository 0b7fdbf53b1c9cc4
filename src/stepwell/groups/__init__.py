"""Parameter groups: the hyperparameters of each tensor of a model, by its role, its layer or its name.

>>> from stepwell import groups
>>> print(groups.by_role(model, lr=3e-4, weight_decay=0.1))
"""

from stepwell.anatomy import ROLES, Anatomy, Member, find_roles
from stepwell.groups.build import NO_DECAY, Groups, by_layer, by_pattern, by_role, freeze, muon
from stepwell.groups.memory import Forecast, device_memory, forecast
from stepwell.groups.show import Row, rows

__all__ = [
    "NO_DECAY",
    "ROLES",
    "Anatomy",
    "Forecast",
    "Groups",
    "Member",
    "Row",
    "by_layer",
    "by_pattern",
    "by_role",
    "device_memory",
    "find_roles",
    "forecast",
    "freeze",
    "muon",
    "rows",
]
