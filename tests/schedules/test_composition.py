"""The methods of a schedule, whichever file of the package is imported first."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields

import pytest

from stepwell.schedules.base import Methods, Schedule


def test_each_method_is_there_once() -> None:
    assert all(callable(getattr(Schedule._methods, field.name)) for field in fields(Methods))
    assert [kind for kind in Schedule.__subclasses__() if "_methods" in vars(kind)] == []


@pytest.mark.parametrize("first", ["base", "lengths"])
def test_a_schedule_is_whole_whichever_file_is_imported_first(first: str) -> None:
    code = f"""
import stepwell.schedules.{first}
from stepwell.schedules.smooth import linear
s = (linear(4) * 0.5).hold().until(3).then(linear(2) * linear(2)).per_group({{"head": 2}}).between(0, 1)
print(s, s(0), s(0, "head"), "<svg" in s._repr_html_())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    expression = "(linear(4) * 0.5).hold().until(3).then(linear(2) * linear(2)).per_group({'head': 2}).between(0, 1)"
    assert done.stdout.strip() == f"{expression} 0.5 1.0 True"
