"""Runs to read and to draw."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stepwell.doctor.journal import Journal
from stepwell.findings import Check, Evidence, Finding, Run, Severity, Tensor

LAYERS = ("encoder.0", "encoder.1", "head")
PARAMETERS = [f"{layer}.{part}" for layer in LAYERS for part in ("weight", "bias")]
FACTS = {
    "models": ["Net"],
    "optimizers": [{"name": "AdamW", "groups": [{"lr": 1e-3, "betas": [0.9, 0.999], "weight_decay": 0.01}]}],
    "parameters": PARAMETERS,
    "shapes": [[8, 4], [8]] * 3,
    "torch": "2.13.0",
    "device": "cpu",
}


def finding(code: str = "D03", severity: Severity = "error", step: int = 120, seen: str = "it rose") -> Finding:
    check = Check(
        code=code, name=f"fault-{code.lower()}", severity=severity, certainty="certain", looks_for="a fault",
        why="the model forgets", instead="clip the gradient", example_bad="1", example_good="2",
        reference="arXiv 1211.5063",
    )  # fmt: skip
    return Finding(
        check=check, place=Run("Net", step), seen=seen, evidence=(Evidence(Tensor("head.weight", step), "rms 12"),)
    )


def record(
    folder: Path,
    name: str = "run.jsonl",
    *,
    steps: int = 200,
    findings: Sequence[tuple[int, Finding]] = (),
    broken_from: int | None = None,
    facts: Mapping[str, Any] = FACTS,
    lr: float = 1e-3,
    ends: bool = True,
    every: int = 10,
) -> Path:
    """Write the journal of a run; returns its path."""
    path = folder / name
    journal = Journal(path)
    journal.start(facts)
    dice = random.Random(0)
    width = len(facts["parameters"])
    for step in range(1, steps + 1):
        is_broken = broken_from is not None and step >= broken_from
        loss = 0.2 + 2 * math.exp(-3 * step / steps) + dice.gauss(0, 0.02)
        row: dict[str, Any] = {
            "step": step,
            "loss": math.nan if is_broken else loss,
            "lr": [lr],
            "grad_norm": math.exp(dice.gauss(0, 1)),
        }
        row |= {"clipped": step % 4 == 0, "scale": 65536.0}
        if step % every == 0 or steps < every:
            row |= {"grad": [0.01] * width, "weight": [0.1, 0.0] * (width // 2)}
            row |= {"update": [1e-4 * (at + 1) for at in range(width)]}
        journal.step(row)
        if step % max(1, steps // 4) == 0:
            journal.val(step, 0.5)
        for at, found in findings:
            if at == step:
                journal.finding(step, found)
    if ends:
        journal.end(steps)
    journal.close()
    return path
