"""What a notebook shows of a schedule."""

import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest

from stepwell import schedules as s
from stepwell.schedules.picture import svg

DRAWN = {
    "one step": s.constant(1),
    "warmup and cosine": s.warmup(500).then(s.cosine(9_500, to=0.1)),
    "fractions": s.warmup(0.05).then(s.cosine(to=0.1)),
    "fractions after steps": s.warmup(5_000).then(s.cosine(to=0.1)),
    "without an end": s.step(100),
    "stairs": s.multi_step([300, 600]),
    "many stairs": s.multi_step(range(1, 2000)),
    "held": s.linear(50).hold(),
    "constant": s.constant(),
    "long": s.cosine(10_000_000),
    "rates": s.noam(400),
    "per group": s.cosine(100).per_group({"<head>": 0.1, 1: s.linear(100)}),
    "momentum": s.one_cycle_momentum(100),
    "own": s.from_function(lambda k: 1 / (1 + k)),
    "zero": s.constant(10) * 0.0,
}


@pytest.mark.parametrize("schedule", DRAWN.values(), ids=DRAWN)
def test_a_schedule_has_a_small_picture(schedule: s.Schedule) -> None:
    page = schedule._repr_html_()
    picture = ET.fromstring(page.replace("<br>", ""))  # well formed, whatever names and expressions hold
    (image,) = picture.iter("{http://www.w3.org/2000/svg}svg")
    lines = list(image.iter("{http://www.w3.org/2000/svg}polyline"))
    assert len(lines) == 1 + len(set(schedule.group_keys()))
    width, height = float(image.get("width", 0)), float(image.get("height", 0))
    for line in lines:
        for place in line.get("points", "").split():
            x, y = map(float, place.split(","))
            assert 0 <= x <= width
            assert 0 <= y <= height
    assert len(page) < 40_000


def test_the_curve_is_that_of_the_schedule() -> None:
    places = re.search(r'points="([^"]*)"', svg(s.linear(4, to=0)))
    assert places is not None
    heights = [float(place.split(",")[1]) for place in places[1].split()]
    falls = [b - a for a, b in pairwise(heights)]
    assert len(heights) == 4
    assert all(fall == pytest.approx(falls[0], abs=0.2) for fall in falls)
    assert falls[0] > 5


def test_fractions_are_drawn_in_per_cent() -> None:
    assert "100 %" in s.warmup(0.1).then(s.cosine())._repr_html_()
    assert "of 10000<" in s.warmup(5_000).then(s.cosine())._repr_html_()
    assert "100 %" not in s.cosine(10)._repr_html_()


def test_what_cannot_be_drawn_is_text() -> None:
    def broken(step: int) -> float:
        raise ValueError("no rate")

    assert "<svg" not in s.from_function(broken)._repr_html_()
    assert "from_function" in s.from_function(broken)._repr_html_()
