"""The page: needs nothing from outside, holds all data, and survives any text."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from stepwell import report
from stepwell.curves import Chart, Curve, Heights, Mark, Section, Table
from stepwell.findings import Check, Finding, Trial
from stepwell.report.figures import SERIES, decades, figure, said, slots
from stepwell.report.page import embedded

NASTY = "</script><b>&\"'é"
CURVES = [
    Curve(
        "AdamW", [0, 10, 20], [2.0, 1.0, 0.5], low=[1.5, 0.8, 0.4], high=[2.5, 1.2, 0.6], x_label="step", y_label="loss"
    ),
    Curve("Lion", [0, 10, 20], [2.0, None, 0.7], labels=["", "cut", ""], style="line+points"),
]
CHART = Chart("While training", CURVES, note="a note", marks=[Mark("target 0.6", 0.6)])
LOG = Chart("Against lr", [Curve("Lion", [1e-4, 1e-2], [0.5, 3.0], style="star")], log_x=True, log_y=True)
PLANE = Chart(
    "Path", [Curve("AdamW", [0, 1], [0, 1])], heights=Heights([0, 1], [0, 1], [[0.0, 1.0], [1.0, 2.0]], ((0, 0),), True)
)
TABLE = Table(
    ["optimizer", "median"], [["AdamW", 0.5], ["Lion", None], [NASTY, "x"]], title="Scores", notes=["a table's note"]
)
CHECK = Check(
    code="C04", name="edge", severity="warning", certainty="certain", looks_for="an edge", example_bad="1",
    example_good="2", why="a better one may lie outside", instead="widen the range", reference="arXiv 1",
)  # fmt: skip
FINDING = Finding(check=CHECK, place=Trial("Lion"), seen="best lr at the edge")
SECTIONS = [Section("Result", [TABLE, FINDING], "text of the section"), Section("Charts", [CHART, LOG, PLANE])]


@pytest.fixture(scope="module")
def page() -> str:
    return report.render("A title " + NASTY, SECTIONS, lead="the lead", foot="the foot")


class Elements(HTMLParser):
    """Every element with its attributes, and the text outside scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.scripts: list[str] = []
        self.styles = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        where = self.elements[-1][0] if self.elements else ""
        if where == "script":
            self.scripts.append(data)
        elif where == "style":
            self.styles += data
        else:
            self.text += data


def parsed(page: str) -> Elements:
    parser = Elements()
    parser.feed(page)
    return parser


def test_nothing_is_loaded_from_anywhere(page: str) -> None:
    found = parsed(page)
    loading = {"src", "href", "srcset", "data", "poster", "action", "background", "xlink:href"}
    assert [(tag, attrs) for tag, attrs in found.elements if loading & attrs.keys()] == []
    assert not {tag for tag, _ in found.elements} & {"link", "iframe", "object", "embed", "img", "base"}
    assert not re.search(r"url\(|@import|@font-face", found.styles)
    ours = [script for script in found.scripts if len(script) < 100_000]
    assert ours
    assert not any(re.search(r"https?:|fetch\(|XMLHttpRequest|import\(", script) for script in ours)
    policy = next(attrs["content"] for tag, attrs in found.elements if "Content-Security-Policy" in attrs.values())
    assert policy is not None
    assert policy.startswith("default-src 'none';")  # so that the drawing library cannot load anything either
    assert "http" not in policy


def test_the_drawing_library_is_inside_once(page: str) -> None:
    assert page.count("plotly.js v") == 1
    assert "plotly.js v" not in report.render("t", [Section("only a table", [TABLE])])


def test_all_text_is_there_and_none_of_it_is_markup(page: str) -> None:
    text = parsed(page).text
    texts = ["A title " + NASTY, "the lead", "the foot", "text of the section", "Scores", "a table's note", NASTY]
    texts += ["C04", "best lr at the edge", "A better one may lie outside.", "Widen the range.", "arXiv 1", "a note"]
    for said_there in texts:
        assert said_there in text
    assert "<b>" not in page.replace("<b>%{y", "")


def test_the_figures_inside_are_those_of_the_charts(page: str) -> None:
    scripts = re.findall(r'<script type="application/json" data-for="(figure-\d)">(.*?)</script>', page, re.DOTALL)
    charts = [CHART, LOG, PLANE]
    assert [name for name, _ in scripts] == ["figure-1", "figure-2", "figure-3"]
    assert [json.loads(data) for _, data in scripts] == [figure(chart, slots(charts)) for chart in charts]
    assert all(f'id="{name}"' in page for name, _ in scripts)


def test_a_figure_holds_the_data_and_a_name_keeps_its_colour() -> None:
    colours = slots([CHART, LOG])
    made = figure(CHART, colours)
    by_name = {trace["name"]: trace for trace in made["data"] if "name" in trace}
    assert by_name["AdamW"]["y"] == [2.0, 1.0, 0.5]
    assert by_name["Lion"]["y"] == [2.0, None, 0.7]
    assert by_name["Lion"]["text"] == ["", "cut", ""]
    fills = [trace for trace in made["data"] if trace.get("fill") == "tonexty"]
    assert [trace["y"] for trace in fills] == [[2.5, 1.2, 0.6]]
    assert made["layout"]["xaxis"]["title"]["text"] == "step"
    assert [shape["y0"] for shape in made["layout"]["shapes"]] == [0.6]
    star = figure(LOG, colours)["data"][0]
    assert star["marker"]["color"] == by_name["Lion"]["line"]["color"] != by_name["AdamW"]["line"]["color"]


def test_every_colour_of_a_figure_is_defined_in_light_and_dark(page: str) -> None:
    style = parsed(page).styles
    light, _, dark = style.partition("@media (prefers-color-scheme: dark)")
    many = Chart("many", [Curve(str(i), [0], [0], low=[0], high=[0]) for i in range(2 * SERIES)])
    charts = [CHART, LOG, PLANE, many]
    used = set(re.findall(r"var\((--[\w-]+)\)", json.dumps([figure(chart, slots(charts)) for chart in charts])))
    assert len(used) > 2 * SERIES
    for name in used:
        assert f"{name}:" in light
        assert f"{name}:" in dark


def test_a_ninth_name_differs_from_the_first_by_its_dash() -> None:
    many = Chart("many", [Curve(str(i), [0], [0]) for i in range(SERIES + 1)])
    lines = [trace["line"] for trace in figure(many, slots([many]))["data"]]
    assert len({line["color"] for line in lines}) == SERIES
    assert len({(line["color"], line["dash"]) for line in lines}) == SERIES + 1


def test_an_optimizer_has_one_color_on_every_page() -> None:
    one = slots([Chart("a", [Curve(name, [], []) for name in ("SGD", "AdamW", "Lion")])])
    other = slots([Chart("b", [Curve(name, [], []) for name in ("Lion", "Muon", "AdamW", "SGD")])])
    assert {name: other[name] for name in one} == one
    assert len(set(other.values())) == 4


def test_logarithmic_axes_have_a_few_readable_ticks() -> None:
    assert decades([3e-4, 0.2]) == [1e-4, 1e-3, 1e-2, 1e-1, 1.0]
    assert len(decades([1e-30, 1.0])) <= 9
    assert decades([]) == [1.0]
    assert [said(tick) for tick in (1e-6, 1e-3, 1.0, 100.0, 1e6)] == ["1e-6", "0.001", "1", "100", "1e6"]
    assert figure(LOG, slots([LOG]))["layout"]["yaxis"]["type"] == "log"


def test_figures_are_what_plotly_takes() -> None:
    import plotly.graph_objects as go

    colours = slots([CHART, LOG, PLANE])
    for chart in (CHART, LOG, PLANE):
        made = figure(chart, colours)
        whole = go.Figure(made)  # raises ValueError for a name or a value that plotly does not know
        assert len(whole.data) == len(made["data"])


def test_json_cannot_end_its_script_element() -> None:
    assert "<" not in embedded({"name": NASTY})
    assert json.loads(embedded({"name": NASTY})) == {"name": NASTY}


def test_a_page_is_written_whole(tmp_path: Path) -> None:
    path = report.write(tmp_path / "report.html", "t", SECTIONS)
    assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
