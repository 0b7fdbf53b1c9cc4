"""Every exercise runs, writes its picture, and its claim on docs/exercises.md holds in the quick run, where it can."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import stepwell as sw
from stepwell import schedules
from stepwell.schedules import Plateau, Schedule

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "examples" / "exercises"
PAGE = ROOT / "docs" / "exercises.md"
PARTS = ("exercise", "rmsprop_nesterov")  # what programs import
PNG = b"\x89PNG\r\n\x1a\n"

Numbers = dict[str, Any]


def rule_reaches_the_goal(n: Numbers) -> None:
    assert n["RMSprop, Nesterov, steps"] is not None
    assert n["SGD, momentum 0.9, steps"] < n["RMSprop, Nesterov, steps"]
    assert n["SGD, steps"] is None, "without momentum the valley takes thousands of steps"


def five_schedules_were_trained(n: Numbers) -> None:
    accuracies = [value for name, value in n.items() if name.endswith("final accuracy, mean")]
    assert len(accuracies) == 5
    assert all(0.05 < accuracy <= 1 for accuracy in accuracies)


def accumulation_is_the_large_batch_without_batch_norm(n: Numbers) -> None:
    assert n["16 x 64 against 1024, group norm"] < 1e-12
    assert n["16 x 64 against 1024, batch norm"] > 1e-3
    assert n["MiB kept for backward, 1024"] == pytest.approx(16 * n["MiB kept for backward, 64"], rel=0.05)
    assert n["MiB kept for backward, 64 in bf16"] < n["MiB kept for backward, 64"]


def adam_shrinks_more_than_adamw(n: Numbers) -> None:
    for decay in ("0.01", "1"):
        assert n[f"Adam, weight_decay {decay}, norm"] < n[f"AdamW, weight_decay {decay}, norm"]


def both_networks_were_updated(n: Numbers) -> None:
    assert n["updates of the generator"] == n["updates of the critic"] == 150


def lower_layers_move_less(n: Numbers) -> None:
    assert 0 < n["rates by layer, stem moved"] < n["one rate, stem moved"]
    assert n["head alone, stem moved"] == 0


def carried_state_takes_the_switch_better(n: Numbers) -> None:
    for what in ("loss of the 5 updates after", "loss of the last epoch"):
        assert n[f"switch, {what}"] < 0.96 * n[f"switch, fresh state, {what}"]


def shares_clipped_are_those_of_the_percentile(n: Numbers) -> None:
    assert n["no clipping, lr 0.06, share clipped"] == 0
    assert 0 < n["clip_norm=1, lr 0.06, share clipped"] < 1
    assert n["AutoClip(10), lr 0.06, share clipped"] > 0.7


def resumed_run_has_the_same_bits(n: Numbers) -> None:
    assert n["losses equal"]
    assert n["weights and averages equal bit for bit"]
    assert n["updates made twice"] > 0, "killed at a checkpoint, not between two"


def momentum_runs_down_the_ravine(n: Numbers) -> None:
    assert n["ravine, SGD, momentum 0.9, end"] < n["ravine, SGD, end"]


def all_are_drawn(n: Numbers) -> None:
    kinds = {kind for kind in map(schedules.__dict__.get, schedules.__all__) if isinstance(kind, type)}
    public = {kind.__name__ for kind in kinds if issubclass(kind, Schedule)} | {Plateau.__name__}
    source = (FOLDER / "all_schedules.py").read_text()
    # One is the base class; the momentum is made by a method.
    missing = {name for name in public if f"{name}(" not in source} - {"Schedule", "one_cycle_momentum"}
    assert not missing
    assert n["schedules drawn"] >= len(public) - 2


def each_tool_finds_its_share(n: Numbers) -> None:
    assert len(n["lint, as written"]) == 5
    assert n["lint, in the end"] == []
    assert n["after the linter, doctor"][-1].startswith("R19")
    assert n["inputs scaled, doctor"] == ["R08 learning-rate-too-high"]
    assert n["rate advised, doctor"] == []
    assert n["rate advised, accuracy"] > 0.7
    assert max(n[f"{stage}, accuracy"] for stage in ("as written", "after the linter", "inputs scaled")) < 0.3


CLAIMS: dict[str, Callable[[Numbers], None]] = {
    "new_rule_on_rosenbrock": rule_reaches_the_goal,
    "five_schedules": five_schedules_were_trained,
    "large_batch": accumulation_is_the_large_batch_without_batch_norm,
    "adam_and_adamw": adam_shrinks_more_than_adamw,
    "gan_with_two_optimizers": both_networks_were_updated,
    "fine_tuning_by_layer": lower_layers_move_less,
    "adam_to_sgd": carried_state_takes_the_switch_better,
    "clipping_watched": shares_clipped_are_those_of_the_percentile,
    "resume_after_kill": resumed_run_has_the_same_bits,
    "paths_on_a_surface": momentum_runs_down_the_ravine,
    "all_schedules": all_are_drawn,
    "from_broken_to_cured": each_tool_finds_its_share,
}


def rule() -> type[sw.Optimizer]:
    """The new rule, from its file."""
    spec = importlib.util.spec_from_file_location("rmsprop_nesterov", FOLDER / "rmsprop_nesterov.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.RMSpropNesterov


def test_the_new_rule_is_its_formula_in_the_package_s_own_loop() -> None:
    point = torch.nn.Parameter(torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64))
    p, square_avg, buffer = point.detach().numpy().copy(), 0.0, 0.0
    step = sw.Step(rule()([point], lr=0.1, alpha=0.9, momentum=0.8, weight_decay=0.01))
    for _ in range(5):
        step((point**3).sum())
        g = 3 * p**2 + 0.01 * p
        square_avg = 0.9 * square_avg + 0.1 * g * g
        scaled = g / (np.sqrt(square_avg) + 1e-8)
        buffer = 0.8 * buffer + scaled
        p = p - 0.1 * (scaled + 0.8 * buffer)
    assert point.detach().numpy() == pytest.approx(p, rel=1e-6)


@pytest.mark.slow
def test_the_new_rule_has_the_formats_and_the_switch_of_the_package() -> None:
    weight = torch.nn.Parameter(torch.randn(64, 64))
    step = sw.Step(sw.Adam([("weight", weight)], lr=1e-3), clip_norm=1.0)
    step((weight**2).sum())
    step.switch(rule(), lr=1e-3, state="int8")
    before = weight.square().sum().item()
    for _ in range(3):
        step((weight**2).sum())
    assert weight.square().sum().item() < before
    assert "int8" in str(step.optimizer.explain())


@pytest.mark.slow
@pytest.mark.parametrize("name", CLAIMS)
def test_an_exercise_runs_and_its_claim_holds(name: str, tmp_path: Path) -> None:
    picture, numbers = tmp_path / "picture.png", tmp_path / "numbers.json"
    path = os.pathsep.join([str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-W", "error", FOLDER / f"{name}.py", picture, "--quick", "--numbers", numbers]
    ran = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert picture.read_bytes()[:8] == PNG
    CLAIMS[name](json.loads(numbers.read_text()))


def test_every_program_has_a_claim_a_section_and_a_picture() -> None:
    programs = {path.stem for path in FOLDER.glob("*.py")} - set(PARTS)
    assert programs == set(CLAIMS)
    page = PAGE.read_text()
    for name in programs:
        assert f"examples/exercises/{name}.py" in page
        assert f"(exercises/{name}.png)" in page
        assert (PAGE.parent / "exercises" / f"{name}.png").stat().st_size < 120_000
    assert len(re.findall(r"^## ", page, re.MULTILINE)) >= len(programs)
