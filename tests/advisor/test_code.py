"""The printed programs run as they are, in both forms, and `stepwell lint --preview` finds nothing in them."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import stepwell as sw
from stepwell.advisor.code.plain import IN_TORCH
from stepwell.advisor.published import published
from stepwell.errors import UsageError
from stepwell.lint import Settings, lint_source

EVERYTHING = Settings(select=("ALL",), preview=True)
# one of each stand-in, schedule and way to group
SOME: list[dict[str, Any]] = [
    {"model": "ResNet-50", "dataset": "CIFAR-10", "batch_size": 128, "steps": 50},
    {"model": "ViT-B/16", "task": "image_classification", "batch_size": 1024, "steps": 100, "micro_batch": 256},
    {
        "model": "BEiT-B",
        "family": "ssl_vision",
        "task": "image_classification",
        "regime": "fine_tune",
        "batch_size": 512,
        "steps": 100,
    },
    {"model": "EfficientNet-B0", "dataset": "ImageNet-1k", "batch_size": 256, "steps": 40},
    {"model": "GPT-2 124M", "batch_size": 512, "steps": 30},
    {"model": "bert-base", "regime": "fine-tuning", "task": "text classification", "batch_size": 32, "steps": 20},
    {"model": "transformer", "family": "translation", "steps": 20},
    {"model": "DCGAN", "batch_size": 64, "steps": 20},
    {"model": "DDPM", "batch_size": 128, "steps": 20},
    {"model": "PPO"},
    {"model": "GCN", "dataset": "Cora"},
    {"model": "DeepFM", "task": "ctr", "batch_size": 1024},
    {"model": "wav2vec2", "family": "speech_audio", "task": "asr", "steps": 100},
    {"model": "MDX23C", "task": "music source separation"},
    {"model": "PatchTST", "task": "forecasting", "steps": 20},
    {"model": "LSTM", "family": "rnn_lm", "steps": 10},
    {"model": "NeRF", "steps": 100},
    {"model": "modded nanogpt Muon", "family": "new_optimizer", "task": "causal_lm", "steps": 40},
    {
        "model": "ResNet-50 LARS",
        "family": "large_batch",
        "task": "image_classification",
        "batch_size": 8192,
        "steps": 40,
    },
    {"model": "BERT LAMB", "family": "large_batch", "task": "masked_lm", "batch_size": 4096, "steps": 40},
]


def run(program: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(program, "program", "exec"), {"__name__": "__main__"})
    return out.getvalue()


@pytest.mark.parametrize("form", ["stepwell", "torch"])
@pytest.mark.parametrize("given", SOME, ids=[row["model"] for row in SOME])
def test_programs_run_and_are_clean(given: dict[str, Any], form: str) -> None:
    program = sw.advise(**given).code(form)
    assert [finding.code for finding in lint_source(program, settings=EVERYTHING)] == []
    assert "update" in run(program)
    assert form == "stepwell" or "stepwell" not in program


@pytest.mark.parametrize("name", ["lion", "lamb", "muon", "adafactor", "sophia", "schedulefreeadamw", "shampoo"])
def test_programs_of_other_optimizers(name: str) -> None:
    recipe = sw.advise("GPT-2 124M", batch_size=8, steps=30).with_optimizer(name)
    for form in ("stepwell", "torch"):
        if form == "torch" and recipe.optimizer not in (*IN_TORCH, "Lion", "LAMB", "LARS"):
            with pytest.raises(UsageError, match="PyTorch has no"):
                recipe.code(form)
            continue
        program = recipe.code(form)
        assert [finding.code for finding in lint_source(program, settings=EVERYTHING)] == []
        assert "update" in run(program)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(2))
def test_programs_of_published_configurations(part: int) -> None:
    for row in published()[3 * part :: 12]:
        recipe = sw.recipe(row.id)
        for form in ("stepwell", "torch"):
            if form == "torch" and recipe.optimizer not in (*IN_TORCH, "LAMB", "LARS", "Lion"):
                continue
            program = recipe.code(form)
            assert [finding.code for finding in lint_source(program, settings=EVERYTHING)] == [], row.id
            assert "update" in run(program), row.id


def test_both_forms_have_the_same_rates() -> None:
    for given in (SOME[0], SOME[1], SOME[3]):
        recipe = sw.advise(**given)
        ours, plain = (run(recipe.code(form)).splitlines() for form in ("stepwell", "torch"))
        # stepwell prints the rate of the update, torch's loop that of the next one
        mine = [float(line.rsplit(" ", 1)[1]) for line in ours]
        other = [float(line.rsplit(" ", 1)[1]) for line in plain]
        for here, there in zip(mine[1:], other, strict=False):
            assert there == pytest.approx(here, rel=0.15, abs=1e-9)


@pytest.mark.slow
def test_a_program_is_a_file_that_runs(tmp_path: Path) -> None:
    file = tmp_path / "train.py"
    file.write_text(sw.advise("ResNet-50", dataset="CIFAR-10", batch_size=128).code("torch"))
    done = subprocess.run([sys.executable, str(file)], capture_output=True, text=True, check=True)
    assert "update 12" in done.stdout
    assert done.stderr == ""


def test_wrong_arguments() -> None:
    recipe = sw.advise("ResNet-50", batch_size=128)
    with pytest.raises(UsageError, match="form='keras'; it must be one of stepwell, torch"):
        recipe.code("keras")
    with pytest.raises(UsageError, match="steps=0"):
        recipe.code(steps=0)
