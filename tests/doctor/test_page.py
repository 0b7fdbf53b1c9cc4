"""The page of a run: findings on top, all that was recorded, in a bounded size; any run can be drawn."""

from __future__ import annotations

import json
import math
import re
from itertools import pairwise
from pathlib import Path

import plotly.graph_objects as go
import pytest
from plotly.offline import get_plotlyjs

from stepwell.curves import Chart, Curve, HeatMap, Mark, Table
from stepwell.doctor import charts, page, thinning
from stepwell.doctor.journal import Journal, read
from stepwell.doctor.layers import layers, ratios, table
from stepwell.doctor.run import Run, Sample
from stepwell.doctor.summary import headline
from stepwell.errors import UsageError
from stepwell.report.figures import figure, slots
from tests.doctor.runs import FACTS, LAYERS, finding, record

THREE = [(50, finding("D03", "error", 50)), (52, finding("D07", "warning", 52)), (190, finding("D09", "note", 190))]


def drawn(run: Run) -> dict[str, Chart]:
    return {item.title: item for part in page.sections(run) for item in part.items if isinstance(item, Chart)}


def test_a_page_has_the_summary_the_findings_and_every_chart(tmp_path: Path) -> None:
    run = read(record(tmp_path, findings=THREE))
    path = page.write(run, tmp_path / "out.html")
    text = path.read_text()
    assert "Training run: Net" in text
    assert "200 steps" in text
    assert "ended. First cause, at step 50: D03 Net at step 50: it rose." in text
    positions = [text.index(part) for part in ("D03</span>", "D07</span>", "D09</span>", "<h3>Loss</h3>")]
    assert positions == sorted(positions)
    for title in ("Loss", "Learning rate", "Gradient norm", "Share of clipped steps", "Scale of the loss (float16)",
                  "Update-to-weight ratio of each layer", "At step 200", "Settings at the start"):  # fmt: skip
        assert f"<h3>{title}</h3>" in text, title
    assert "lr=0.001, betas=(0.9, 0.999), weight_decay=0.01" in text
    assert str(tmp_path) not in text  # a page that is passed on names no folder of its maker
    colors = slots(list(drawn(run).values()))
    assert len(colors) <= 8  # a color for each name
    for chart in drawn(run).values():
        go.Figure(figure(chart, colors))  # raises ValueError for what plotly does not know


def test_the_loss_is_drawn_raw_and_smoothed_with_validation_and_marks(tmp_path: Path) -> None:
    run = read(record(tmp_path, findings=THREE))
    chart = drawn(run)["Loss"]
    assert [(curve.name, curve.style) for curve in chart.curves] == [
        ("loss", "faint"), ("loss", "line"), ("validation", "line+points"),
    ]  # fmt: skip
    raw, smooth = chart.curves[0].y, chart.curves[1].y
    assert list(raw) == [float(f"{value:.5g}") for value in run.loss if value is not None]
    rough = [sum(abs(b - a) for a, b in pairwise(y)) for y in (raw, smooth)]  # type: ignore[operator]  # no gaps here
    assert rough[1] < rough[0] / 2
    assert [(mark.label, mark.value, mark.axis) for mark in chart.marks] == [
        ("D03, D07", 50, "x"), ("", 52, "x"), ("D09", 190, "x"),
    ]  # fmt: skip
    made = figure(chart, slots([chart]))
    assert len(made["layout"]["shapes"]) == 3
    assert [one["text"] for one in made["layout"]["annotations"]] == ["D03, D07", "D09"]
    assert [one["xanchor"] for one in made["layout"]["annotations"]] == ["left", "right"]
    assert [trace["name"] for trace in made["data"] if trace["showlegend"]] == ["loss", "validation"]


def test_labels_of_marks_do_not_cover_one_another() -> None:
    marks = [Mark(f"D{number:02}", 5 * number, axis="x") for number in range(21)]
    chart = Chart("many", [Curve("loss", [0, 100], [1, 0])], marks=marks)
    made = figure(chart, slots([chart]))["layout"]["annotations"]
    rows: dict[int, list[tuple[float, float]]] = {}
    for one in made:
        width = 100 * 0.023 * 4
        span = (one["x"] - width, one["x"]) if one["xanchor"] == "right" else (one["x"], one["x"] + width)
        assert span[0] >= -0.1
        assert span[1] <= 100.1
        rows.setdefault(one.get("yshift", 0), []).append(span)
    assert len(rows) <= 4
    for spans in rows.values():
        for (_, end), (begin, _) in pairwise(sorted(spans)):
            assert end <= begin + 1e-9


def test_layers_join_the_parameters_of_a_module_by_their_elements() -> None:
    facts = {**FACTS, "shapes": [[3], [1]] * 3}
    sample = Sample(7, grad=[0.0, None] * 3, weight=[1.0, 3.0, 0.0, 0.0, 1.0, 1.0], update=[0.1, 0.3, 0.1, 0.1, 0, 0])
    run = Run("a", facts, step=[7], loss=[1.0], samples=[sample])
    parts = layers(run)
    assert [part.name for part in parts] == list(LAYERS)
    assert parts[0].rms(sample.weight) == pytest.approx(math.sqrt((3 * 1 + 1 * 9) / 4))
    assert parts[0].rms(sample.grad) == 0
    assert parts[0].ratio(sample) == pytest.approx(0.1)
    assert parts[1].ratio(sample) is None  # weights of zero
    assert math.isnan(parts[0].rms([math.nan, 1.0, 1, 1, 1, 1]) or 0)
    assert parts[0].rms([1e200, 1e200, 1, 1, 1, 1]) == pytest.approx(1e200)
    chart = ratios(run)
    assert chart is not None
    assert chart.heat_map is not None
    assert (chart.heat_map.x, chart.heat_map.rows) == ([7], list(LAYERS))
    assert chart.heat_map.z == [[-1.0], [None], [-9.0]]
    assert (chart.heat_map.low, chart.heat_map.high) == (-6, 0)
    listed = table(run)
    assert isinstance(listed, Table)
    assert list(listed.rows[0]) == ["encoder.0", "4", "1.73", "0", "0.173", "0.1"]


def test_many_layers_are_joined_and_two_of_one_name_stay_two() -> None:
    names = [f"blocks.{block}.mlp.{layer}.weight" for block in range(100) for layer in range(4)] + ["scale"]
    run = Run("a", {"parameters": names})
    assert [part.name for part in layers(run)][:2] == ["blocks.0.mlp", "blocks.1.mlp"]
    assert [part.name for part in layers(run)][-1] == "scale"
    heat_map = HeatMap([1], ["a", "a"], [[0.0], [1.0]], low=-6, high=0)
    (trace,) = figure(Chart("t", [], heat_map=heat_map), {})["data"]
    assert trace["y"] == ["a", "a (2)"]
    with pytest.raises(ValueError, match="z has 1 rows, and there are 2 names"):
        HeatMap([1], ["a", "b"], [[0.0]], low=0, high=1)
    with pytest.raises(ValueError, match="a row has 2 values, x has 1"):
        HeatMap([1], ["a"], [[0.0, 1.0]], low=0, high=1)


def test_the_heat_map_names_step_layer_and_value_under_the_pointer(tmp_path: Path) -> None:
    chart = drawn(read(record(tmp_path)))["Update-to-weight ratio of each layer"]
    made = figure(chart, {})
    (trace,) = made["data"]
    assert trace["hovertemplate"].startswith("%{y}<br>step %{x:.6~g}, <b>%{z:.2f}")
    assert (trace["zmin"], trace["zmax"], trace["type"]) == (-6, 0, "heatmap")
    assert made["layout"]["yaxis"]["autorange"] == "reversed"  # the first layer on top
    assert trace["x"] == list(range(10, 201, 10))


def test_losses_that_are_nan_are_crosses_and_said(tmp_path: Path) -> None:
    chart = drawn(read(record(tmp_path, broken_from=121)))["Loss"]
    crosses = next(curve for curve in chart.curves if curve.style == "crosses")
    assert crosses.x[0] == 121
    assert "From step 121 on the losses of 80 steps are nan or infinite" in chart.note
    chart = drawn(read(record(tmp_path, "all.jsonl", broken_from=1)))["Loss"]
    assert [curve.style for curve in chart.curves] == ["line+points", "crosses"]  # the validation, and nothing else
    page.write(read(tmp_path / "all.jsonl"), tmp_path / "all.html")


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 6])
def test_a_run_of_a_few_steps_is_drawn(steps: int, tmp_path: Path) -> None:
    run = read(record(tmp_path, steps=steps, ends=False))
    text = page.write(run, tmp_path / "out.html").read_text()
    assert ("No step yet" if steps == 0 else f"{steps} step") in text
    assert "not ended (still running, or stopped without a last record)" in text
    assert "No finding: the checks of the doctor saw nothing wrong" in text
    assert "in 0 s" not in text


def test_a_run_with_nothing_but_steps_is_drawn(tmp_path: Path) -> None:
    journal = Journal(None)
    journal.start({})
    journal.step({"step": 1})
    journal.val(1, math.nan)
    run = journal.run()
    assert drawn(run) == {}
    assert page.write(run, tmp_path / "out.html").read_text().count("<h2>") == 2


def test_a_long_run_of_many_layers_is_a_small_page_with_its_spikes(tmp_path: Path) -> None:
    names = [f"model.layers.{layer}.{part}" for layer in range(120) for part in ("weight", "bias")]
    facts = {**FACTS, "parameters": names, "shapes": [[64, 64], [64]] * 120}
    found = [(step, finding(f"D{step % 90:02}", step=step)) for step in range(100, 20_000, 100)]
    path = record(tmp_path, steps=20_000, facts=facts, every=100, findings=found)
    text = path.read_text().replace('"step":7777,"loss":', '"step":7777,"loss":99.0,"was":')
    path.write_text(text)
    run = read(path)
    chart = drawn(run)["Loss"]
    assert max(value for value in chart.curves[0].y if value is not None) == 99
    assert all(len(curve.x) <= thinning.MOST + 2 for curve in chart.curves)
    assert len(chart.marks) == charts.MARKS
    text = page.write(run, tmp_path / "out.html").read_text()
    assert len(text) - len(get_plotlyjs()) < 700_000  # besides the drawing library
    assert f"{len(found) - page.FINDINGS} more are in the journal." in text
    assert text.count('class="card finding') == page.FINDINGS


def test_groups_with_equal_rates_share_a_curve_and_many_are_thinned() -> None:
    def run(rates: list[float]) -> Run:
        steps = range(1, 4)
        return Run("a", {}, step=list(steps), loss=[1.0] * 3, lr=[[rate / step for rate in rates] for step in steps])

    chart = charts.rates(run([0.1, 0.1, 0.1]))
    assert chart is not None
    assert [curve.name for curve in chart.curves] == ["all groups"]
    chart = charts.rates(run([0.1, 0.2, 0.1]))
    assert chart is not None
    assert [curve.name for curve in chart.curves] == ["group 0 and 1 more", "group 1"]
    assert not chart.log_y
    chart = charts.rates(run([2.0**-number for number in range(30)]))
    assert chart is not None
    assert len(chart.curves) == charts.RATES
    assert chart.curves[-1].name == "group 29"
    assert chart.log_y
    assert chart.note == "4 of 30 different learning rates are drawn."


def test_clipping_is_said_and_drawn(tmp_path: Path) -> None:
    shown = drawn(read(record(tmp_path)))
    assert "25 % of the steps were clipped, of the last tenth 25 %." in shown["Gradient norm"].note
    values = [value for value in shown["Share of clipped steps"].curves[0].y if value is not None]
    assert sum(values) / len(values) == pytest.approx(0.25)
    run = Run("a", {}, step=[1, 2], loss=[1.0, 1.0], grad_norm=[math.inf, 0.0], clipped=[False, False])
    norm = charts.norm(run)
    assert norm is not None
    assert norm.note == "No step was clipped. 1 norm is nan or infinite: gaps. No norm is a finite number above zero."


def test_a_norm_that_is_recorded_now_and_then_is_one_line_and_a_nan_is_a_gap() -> None:
    norms = [1.0, None, None, 2.0, None, math.nan, None, 3.0, 0.0, 4.0]
    run = Run("a", {}, step=list(range(1, 11)), loss=norms, grad_norm=norms, lr=[None] * 10, clipped=[None] * 10)
    norm = charts.norm(run)
    assert norm is not None
    assert (norm.curves[0].x, norm.curves[0].y) == ([1, 4, 6, 8, 9, 10], [1.0, 2.0, None, 3.0, None, 4.0])
    chart = charts.loss(run)
    assert chart is not None
    assert [curve.x for curve in chart.curves[:2]] == [[1, 4, 6, 8, 9, 10]] * 2
    assert chart.curves[1].y[2] is None


def test_text_of_a_user_is_not_markup(tmp_path: Path) -> None:
    nasty = "</script><b>&\"'"
    facts = {**FACTS, "models": [nasty], "parameters": [f"{nasty}.weight"] * 6, "device": nasty}
    run = read(record(tmp_path, facts=facts, findings=[(3, finding(seen=nasty, step=3))]))
    text = page.write(run, tmp_path / "out.html").read_text()
    assert "<b>&" not in text
    blocks = re.findall(r'<script type="application/json" data-for="figure-\d">(.*?)</script>', text, re.DOTALL)
    assert len(blocks) == len(drawn(run))
    assert all(json.loads(block) for block in blocks)


def test_the_first_cause_is_the_earliest_error_or_warning() -> None:
    found = [(1, finding("D01", "note")), (9, finding("D02", "warning")), (9, finding("D03", "error"))]
    run = Run("a", {}, step=[9], loss=[1.0], findings=found, seconds=[4.0], starts=2, ended=True)
    assert headline(run).startswith("9 steps in 4 s, resumed 1 time, ended. First cause, at step 9: D03")
    assert headline(Run("a", {}, findings=found[:1])).endswith("No finding above the severity of a note.")


def test_a_page_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    run = read(record(tmp_path))
    with pytest.raises(UsageError, match=r"cannot write .*out.html: No such file"):
        page.write(run, tmp_path / "none" / "out.html")
