"""Pictures: the numbers that are drawn, not the pixels."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest

from stepwell.errors import MissingExtra, UsageError
from stepwell.schedules import constant, cosine, draw, multi_step, noam, parse, warmup
from stepwell.schedules.draw import points, save

LONG = warmup(500).then(cosine(99_500, to=0.1))


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("text", ["warmup(500).then(cosine(9500))", "linear(5)", "constant(1)", "cosine(100) * 0"])
@pytest.mark.parametrize(("width", "height"), [(30, 4), (78, 14), (120, 30)])
def test_fits_its_width_and_height(text: str, plain: bool, width: int, height: int) -> None:
    lines = draw(parse(text), lr=3e-4, width=width, height=height, plain=plain).splitlines()
    assert len(lines) == height + 3
    assert max(len(line) for line in lines[:-1]) <= width
    assert all(set(line) - set(" |+-0.e") for line in lines[:-3] if "*" in line)
    if plain:
        assert "\n".join(lines).isascii()


def test_the_curve_is_where_the_axis_says() -> None:
    """A rise to the first third, then flat: the picture's top row begins there, its bottom row ends before."""
    rows = draw(warmup(100).then(constant(200)), width=60, height=10, plain=True).splitlines()[:10]
    bars = [row.split("|", 1)[1] for row in rows]
    width = 60 - len(rows[0].split("|", 1)[0]) - 1
    assert abs(bars[0].index("*") - width / 3) <= 2
    assert bars[0].rstrip().endswith("*" * (width // 2))
    assert bars[-1].strip("* ") == ""
    assert len(bars[-1].rstrip()) <= width * 0.05


def test_the_numbers_below_are_exact_for_long_runs() -> None:
    last = draw(LONG, lr=3e-4, width=60, height=4).splitlines()[-1]
    assert last == "first 6e-07, peak 0.0003 at step 499, last 3e-05, mean 0.000165"
    assert "peak 1 at step 399," in draw(noam(400), steps=500_000)
    assert draw(constant(), steps=5).endswith("(the first 5 steps)")


def test_no_join_is_left_out() -> None:
    at, factors = points(LONG, most=50)
    assert len(at) <= 53
    assert {0, 499, 500, 99_999} <= set(at)
    assert factors[at.index(499)] == 1.0
    assert {299, 300, 70_000} <= set(points(multi_step([300, 70_000]), 90_000, most=10)[0])


def test_plot_returns_axes_with_the_rates() -> None:
    ax = LONG.plot(lr=3e-4)
    x, y = ax.lines[0].get_data()
    assert (x[0], x[-1], max(y), y[0]) == (0, 99_999, 3e-4, pytest.approx(6e-7))
    assert ax.get_ylabel() == "learning rate"
    assert warmup(5).then(cosine(5)).plot(ax) is ax
    assert len(ax.lines) == 2


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_save(tmp_path: Path, ending: str) -> None:
    magic = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[ending]
    target = save(LONG, tmp_path / f"s.{ending}", lr=1e-3)
    assert target.read_bytes().startswith(magic)


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"written as \.png, \.svg or \.pdf"):
        save(LONG, tmp_path / "s.gif")
    with pytest.raises(UsageError, match="does not exist; create it first"):
        save(LONG, tmp_path / "none" / "s.png")
    with pytest.raises(UsageError, match="never ends; pass the number of steps"):
        draw(constant())
    with pytest.raises(UsageError, match="past the horizon"):
        draw(cosine(5), steps=7)
    with pytest.raises(UsageError, match="width=5; it must be a whole number from 30 to 1000"):
        draw(cosine(5), width=5)


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=r"drawing a schedule needs the package 'matplotlib'.*stepwell\[tools\]"):
        LONG.plot()
