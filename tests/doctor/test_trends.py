"""What the series of a record say together."""

from __future__ import annotations

import pytest

from stepwell.doctor.trends import ignores_scale
from stepwell.optimizers import TABLE

FOLLOW = {"SGD", "ASGD", "ScheduleFreeSGD", "SAM", "ASAM", "Lookahead", "LBFGS"}


@pytest.mark.parametrize("name", [*TABLE, "SomebodyElsesAdam"])
def test_which_classes_make_the_same_steps_of_gradients_of_any_scale(name: str) -> None:
    assert ignores_scale(name) == (name in TABLE and name not in FOLLOW)
