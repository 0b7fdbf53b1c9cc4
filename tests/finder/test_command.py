"""The command's function: a task by its name, an answer in text, a picture."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepwell import tasks
from stepwell.errors import UsageError
from stepwell.finder.command import found_for


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lion"])
def test_digits_has_an_answer_inside_the_usual_range_times_three(optimizer: str, tmp_path: Path) -> None:
    usual = {"sgd": (1e-2, 1.0), "adamw": (3e-4, 3e-2), "lion": (3e-5, 1e-2)}[optimizer]
    found = found_for(tasks.find("digits"), optimizer, out=tmp_path / "curve.png")
    assert found.suggestion is not None
    assert usual[0] / 3 <= found.suggestion <= usual[1] * 3
    assert str(found).startswith("learning rate ")
    assert (tmp_path / "curve.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_sophia_is_given_second_derivatives_where_attention_would_be_fused() -> None:
    found = found_for(tasks.find("bytes"), "sophia", iterations=10, orders=1)
    assert len(found.curve.x) == 10


def test_an_unknown_optimizer() -> None:
    with pytest.raises(UsageError, match="unknown optimizer 'adamv'"):
        found_for(tasks.find("digits"), "adamv")
