"""Sets the functions that the methods of class Schedule call; the package imports this file before any other.

`then`, `hold`, `*`, ... make subclasses of Schedule, and `plot` draws one: these files import `base`, so `base` cannot
import them.
"""

from __future__ import annotations

from stepwell.schedules.base import Methods, Schedule
from stepwell.schedules.combine import Between, Held, Product, Scaled, Until, sequence
from stepwell.schedules.draw import plot
from stepwell.schedules.per_group import PerGroup
from stepwell.schedules.picture import html

Schedule._methods = Methods(
    then=sequence,
    hold=Held,
    until=Until,
    between=Between,
    product=Product,
    scaled=Scaled,
    per_group=PerGroup,
    plot=plot,
    html=html,
)
