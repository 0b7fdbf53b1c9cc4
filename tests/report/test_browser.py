"""The page in a real browser: it draws, shows values, hides curves, plays paths, and fits a phone."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from stepwell import report
from stepwell.curves import Chart, Curve, Heights, Mark, Section, Table

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,  # a browser is no Python package: .ci/run installs it, a contributor may have none
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
]

INSIDE = ("file:", "data:", "blob:")
STEPS = list(range(0, 101, 10))
LINES = Chart(
    "The metric during training",
    [
        Curve(name, STEPS, [scale * (step + 1) / 101 for step in STEPS], x_label="step", y_label="accuracy")
        for name, scale in (("SGD", 0.8), ("AdamW", 0.9))
    ],
    marks=[Mark("target 0.7", 0.7)],
)
GRID = [index / 10 for index in range(-10, 11)]
PLANE = Chart(
    "The path",
    [
        Curve(
            name, [1 - step / 100 for step in STEPS[:length]], [0.1 * step / 100 for step in STEPS[:length]],
            style="line+points", labels=[f"step {step}" for step in STEPS[:length]],
        )
        for name, length in (("SGD", 11), ("Lion", 6))
    ],
    heights=Heights(GRID, GRID, [[x * x + y * y for x in GRID] for y in GRID], ((0.0, 0.0),), True),
)  # fmt: skip
WIDE = Table([f"a long column {index}" for index in range(12)], [[0.123456] * 12] * 3, title="Scores")
MANY = [Chart(f"Chart {index}", LINES.curves) for index in range(20)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sections = [Section("Result", [WIDE]), Section("Curves", [PLANE, LINES]), Section("More", MANY)]
    return report.write(tmp_path_factory.mktemp("page") / "report.html", "A comparison", sections)


def opened(browser: Browser, file: Path, **settings: Any) -> tuple[Page, list[str]]:
    """The page, and what must stay empty: errors in its scripts and requests for something outside."""
    page = browser.new_page(**settings)
    said: list[str] = []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: None if request.url.startswith(INSIDE) else said.append(request.url))
    page.goto(file.as_uri())
    page.wait_for_selector("#figure-2 .scatterlayer .trace")
    assert said == []
    return page, said


def until(page: Page, condition: str) -> None:
    """Wait until an expression is true. Playwright's own wait needs an eval, which the page's policy forbids."""
    limit = time.monotonic() + 15
    while not page.evaluate(condition):
        assert time.monotonic() < limit, condition
        page.wait_for_timeout(20)


@pytest.fixture
def page(browser: Browser, file: Path) -> Iterator[Page]:
    one, said = opened(browser, file, viewport={"width": 1300, "height": 900})
    yield one
    assert said == []
    one.close()


def drawn(page: Page, figure: int) -> list[Any]:
    """The traces that the figure has now."""
    found: list[Any] = page.evaluate(
        "n => document.getElementById(`figure-${n}`).data.map(({name, x, visible}) => ({name, x, visible}))", figure
    )
    return found


def test_figures_are_drawn_when_the_reader_comes_near_them(page: Page) -> None:
    last = f"#figure-{2 + len(MANY)}"
    assert page.locator(f"{last} .scatterlayer").count() == 0
    page.locator(last).scroll_into_view_if_needed()
    page.wait_for_selector(f"{last} .scatterlayer .trace")


def test_pointing_at_a_curve_shows_the_values_of_all(page: Page) -> None:
    box = page.locator("#figure-2 .nsewdrag").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_selector("#figure-2 .hoverlayer .hovertext, #figure-2 .hoverlayer .legend")
    text = page.locator("#figure-2 .hoverlayer").text_content() or ""
    assert "0.404" in text  # SGD at step 50: 0.8 * 51 / 101
    assert "0.4545" in text  # AdamW
    assert "AdamW" in text


def test_a_click_on_a_name_hides_its_curve(page: Page) -> None:
    assert [trace.get("visible") for trace in drawn(page, 2)] == [None, None]
    page.locator("#figure-2 .legendtoggle").first.click()
    until(page, "document.getElementById('figure-2').data[0].visible === 'legendonly'")
    assert drawn(page, 2)[1].get("visible") in (None, True)


def test_the_axis_switches_between_logarithmic_and_linear(page: Page) -> None:
    page.locator("#figure-2").hover()
    kind = "document.getElementById('figure-2').layout.yaxis.type"
    assert page.evaluate(kind) in (None, "linear")
    button = page.locator('#figure-2 [data-title="Logarithmic or linear y axis"]')
    button.click()
    until(page, f"{kind} === 'log'")
    button.click()
    until(page, f"{kind} === 'linear'")


def test_the_path_is_played_and_can_be_moved_by_hand(page: Page) -> None:
    figure = page.locator("figure", has=page.locator("#figure-1"))
    slider, button, said = (figure.locator(f".player {name}") for name in ("input", "button", "output"))
    assert [len(trace["x"]) for trace in drawn(page, 1) if trace.get("name")] == [11, 6]
    assert (slider.input_value(), said.inner_text()) == ("10", "step 100")
    slider.fill("2")
    assert [len(trace["x"]) for trace in drawn(page, 1) if trace.get("name")] == [3, 3]
    assert said.inner_text() == "step 20"
    button.click()
    assert button.inner_text() == "Pause"
    until(page, "document.querySelector('.player input').value === '4'")
    button.click()
    assert button.inner_text() == "Play"
    at = int(slider.input_value())
    page.wait_for_timeout(800)  # longer than a step of the animation: the pause holds
    assert int(slider.input_value()) == at
    page.emulate_media(color_scheme="dark")  # which draws the figure again
    page.wait_for_timeout(200)
    assert [len(trace["x"]) for trace in drawn(page, 1) if trace.get("name")] == [at + 1, min(6, at + 1)]
    slider.fill("10")
    button.click()  # from the end it begins again
    assert int(slider.input_value()) < 10
    until(page, "document.querySelector('.player button').textContent === 'Play'")
    assert slider.input_value() == "10"


def test_no_button_sends_a_figure_to_a_server(page: Page) -> None:
    names = [button.get_attribute("data-title") for button in page.locator(".modebar-btn").all()]
    assert {"Zoom in", "Reset axes"} <= set(names)
    assert not [name for name in names if name and ("hare" in name or "loud" in name)]


def test_a_dark_theme_has_other_colors(page: Page) -> None:
    color = "document.getElementById('figure-2').data[0].line.color"
    light = page.evaluate(color)
    page.emulate_media(color_scheme="dark")
    until(page, f"{color} !== '{light}'")


@pytest.mark.parametrize("width", [320, 390, 768, 1300])
def test_the_page_is_never_wider_than_the_screen(browser: Browser, file: Path, width: int) -> None:
    page, _ = opened(browser, file, viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for figure in (1, 2):
        box = page.locator(f"#figure-{figure} .main-svg").first.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
    table = page.locator(".scroll").first
    assert table.evaluate("e => e.scrollWidth > e.clientWidth") == (width < 1300)  # then the table scrolls by itself
    page.close()


def test_without_scripts_the_tables_are_there(browser: Browser, file: Path) -> None:
    page = browser.new_page(java_script_enabled=False)
    page.goto(file.as_uri())
    assert page.locator("td", has_text="0.123456").count() == 36
    assert "This figure needs JavaScript" in page.content()
    assert not page.locator(".player").first.is_visible()
    page.close()
