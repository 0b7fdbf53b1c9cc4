"""The commands `schedule` and `plan`, through typer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from stepwell import cli
from stepwell.errors import UsageError
from tests.anatomy import lookalikes as look


def run(*arguments: str) -> str:
    result = CliRunner().invoke(cli._app(), list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task named `vit`, without the tasks package."""
    module: Any = ModuleType("stepwell.tasks")
    module.find = {"vit": SimpleNamespace(build=lambda seed: look.timm_vit())}.__getitem__
    monkeypatch.setitem(sys.modules, "stepwell.tasks", module)


def test_schedule_draws_and_writes(tmp_path: Path) -> None:
    out = tmp_path / "s.png"
    expression = "warmup(0.05).then(cosine(to=0.1))"
    text = run("schedule", expression, "--lr", "3e-4", "--steps", "1000", "--out", str(out), "--plain")
    assert text.startswith("warmup(50).then(cosine(950, to=0.1))\n")
    assert "peak 0.0003 at step 49" in text
    assert text.isascii()
    assert out.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cosin(5)"], "unknown schedule 'cosin'"),
        (["warmup(0.1).then(cosine())"], "pass the updates of the run as --steps"),
        (["constant()"], "pass the number of steps to draw as --steps"),
        (["warmup(500).then(cosine(9500))", "--steps", "8000"], "is 10000 steps long and the run has 8000"),
        (["cosine(5)", "--out", "x.gif"], "written as .png, .svg or .pdf"),
    ],
)
def test_schedule_refuses(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        run("schedule", *arguments)
    assert message in str(caught.value)


def test_schedule_does_not_wait_for_torch() -> None:
    code = (
        "import sys; from stepwell.schedules.command import show; show('cosine(9)'); "
        "sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'matplotlib')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.usefixtures("tasks")
def test_plan_of_muon_and_of_adamw() -> None:
    text = run("plan", "vit", "--optimizer", "muon", "--averages", "1")
    assert "muon: matrix" in text
    assert "adamw: embedding+norm+bias+scalar+position" in text
    assert "averages" in text
    assert "left for activations" in text
    text = run("plan", "vit", "--optimizer", "adam-w", "--lr", "1e-3", "--layer-decay", "0.5", "--state", "bf16")
    assert "layer 5: " in text
    assert "AdamW" in text


@pytest.mark.usefixtures("tasks")
def test_plan_refuses() -> None:
    for arguments, message in (
        (["--optimizer", "adamv"], "unknown optimizer 'adamv'"),
        (["--state", "int7"], "did you mean 'int8'"),
        (["--device", "gpu"], "unknown device 'gpu'"),
        (["--layer-decay", "0.5"], "multiplies lr, and lr is not given"),
        (["--optimizer", "muon", "--layer-decay", "0.5"], "Muon's split has no layer-wise decay"),
    ):
        with pytest.raises(UsageError) as caught:
            run("plan", "vit", *arguments)
        assert message in str(caught.value)
