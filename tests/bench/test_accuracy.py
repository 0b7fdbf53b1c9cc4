"""The judgement of formats, and the runs that it judges."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

import accuracy
from accuracy import FP32, NATIVE, STATES, WEIGHTS, Curve, Format, Run
from accuracy_figure import draw
from stepwell import tasks

INT8, SPLIT = STATES[2], WEIGHTS[0]


def curve(form: Format, final: float, seed: int, lr: float = 0.01, task: str = "bytes") -> Curve:
    return Curve(Run(task, form, lr, seed, 20), steps=[10, 20], losses=[3.0, final])


def judged(*curves: Curve, lr: float = 0.01) -> dict[str, Any]:
    fp32 = [curve(FP32, final, seed, lr) for seed, final in ((1, 1.0), (2, 1.2), (3, 1.1))]
    others = [curve(FP32, 9.0, seed, 0.5) for seed in (1, 2, 3)]  # at another rate: no measure
    table = accuracy.judged([curve(FP32, 0.1, 0), *fp32, *curves, *others], "bytes")
    return {"verdicts": {one["row"]: one["met"] for one in table.judgements()}, "rows": table.rows}


def test_the_mean_must_be_within_the_seeds_of_fp32() -> None:
    inside = judged(*(curve(INT8, final, seed) for seed, final in ((1, 1.3), (2, 1.1), (3, 1.2))))
    assert inside["verdicts"] == {"state int8": True}
    row = inside["rows"][1]
    assert row["mean"] == pytest.approx(1.2)
    assert row["difference"][0] == pytest.approx(0.1)  # on the same seed
    assert row["difference"][1] == pytest.approx(0.2 / 3**0.5)
    assert row["within"] == 1.0
    outside = judged(*(curve(SPLIT, 1.25, seed) for seed in (1, 2, 3)))
    assert outside["verdicts"] == {"bf16 weights, split": False}
    assert outside["rows"][1]["within"] == 0.5  # at the first of two evaluations


def test_native_weights_must_show_their_loss() -> None:
    for final, shows in ((1.25, True), (1.15, False)):
        found = judged(*(curve(NATIVE, final, seed, accuracy.DEFAULT_RATE) for seed in (1, 2, 3)), lr=1e-3)
        assert found["verdicts"] == {"bf16 weights, native": shows}
    assert judged(*(curve(NATIVE, 1.25, seed) for seed in (1, 2, 3)))["verdicts"] == {}  # at the best rate: no goal


def test_the_rate_is_that_of_the_tuning_seed() -> None:
    tried = [curve(FP32, 2.0, 0, 0.1), curve(FP32, 1.0, 0, 0.2), curve(FP32, float("nan"), 0, 0.3)]
    assert accuracy.tuned([*tried, curve(FP32, 0.5, 1, 0.4), curve(FP32, 0.5, 0, 0.4, "digits")], "bytes") == 0.2
    runs = accuracy.compared_runs("bytes", 20, 3, 0.2)
    default = {(form, accuracy.DEFAULT_RATE) for form in (FP32, *WEIGHTS)}
    assert {(run.form, run.lr) for run in runs} == {*((form, 0.2) for form in (*STATES, *WEIGHTS)), *default}
    assert {run.seed for run in runs} == {1, 2, 3}


@pytest.mark.slow
@pytest.mark.parametrize(("form", "coded"), [(FP32, 1.0), (INT8, 0.7), (SPLIT, 0.99)])
def test_a_run_follows_from_its_seed_and_format(form: Format, coded: float) -> None:
    run = Run("digits", form, 0.01, 1, 15)
    first, second = accuracy.train(run), accuracy.train(run)
    assert first == second
    assert len(first.losses) == accuracy.EVALUATIONS
    assert first.losses[-1] < first.losses[0]
    assert first.coded == pytest.approx(coded, abs=0.02)
    if form != FP32:
        assert first.losses != accuracy.train(Run("digits", FP32, 0.01, 1, 15)).losses


def test_a_model_in_bf16() -> None:
    for name in ("bytes", "digits"):
        task = tasks.find(name)
        model = task.build(0)
        loss = task.loss(accuracy.InBf16(model), next(task.stream(0)))
        assert loss.dtype == torch.float32
        loss.backward()
        kinds = {p.dtype for n, p in model.named_parameters() if "norm" not in n and "shortcut.1" not in n}
        assert kinds == {torch.bfloat16}
        assert all(buffer.dtype != torch.bfloat16 for buffer in model.buffers())
        before = {key: value.clone() for key, value in model.state_dict().items()}
        assert accuracy.held_out_loss(task, model) > 0
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        assert {p.dtype for p in model.parameters()} <= {torch.bfloat16, torch.float32}


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    curves = [
        curve(form, 1.0 + len(form.label) / 100 + seed / 10, seed, lr)
        for lr, forms in ((0.01, (*STATES, *WEIGHTS)), (accuracy.DEFAULT_RATE, (FP32, *WEIGHTS)))
        for form in forms
        for seed in (1, 2)
    ]
    figures = {"best lr": {"bytes": 0.01}, "curves": [asdict(one) for one in curves]}
    draw(figures, str(tmp_path / "curves.png"))
    assert (tmp_path / "curves.png").stat().st_size > 10_000
