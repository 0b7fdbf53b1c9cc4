"""One broken training script, from start to cure: the linter, then the doctor, then the advisor.

`broken_script.txt` learns handwritten digits with seven mistakes. The linter reads the script and mends a part; the
doctor watches the script run, and names what only a run can show; the advisor proposes the optimizer and its rate.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from exercise import COLORS, finish, options, panels

import stepwell as sw
from stepwell.lint import lint_source

SCRIPT = Path(__file__).with_name("broken_script.txt")
# What the linter says and cannot do by itself: (its code, the old lines, the new lines).
BY_HAND = (
    ("SW408", "return torch.softmax(self.layers(x), dim=1)", "return self.layers(x)"),
    ("SW404", "    correct = 0\n", "    net.eval()\n    correct = 0\n"),
    ("SW404", "        total = 0.0\n", "        net.train()\n        total = 0.0\n"),
)
# What the doctor asks for: (its code, the old text, the new text).
BY_DOCTOR = (("R19", "torch.tensor(images * 16, dtype", "torch.tensor(images / 16, dtype"),)
Curve = list[tuple[float, float]]


def mended(source: str) -> str:
    """The source after `stepwell lint --fix --unsafe-fixes`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "script.py"
        path.write_text(source)
        command = [sys.executable, "-m", "stepwell.lint", "--isolated", "--no-cache", "--fix", "--unsafe-fixes", path]
        subprocess.run(command, capture_output=True, check=False)  # findings without a fix are left: the status is 1
        return path.read_text()


def changed(source: str, changes: tuple[tuple[str, str, str], ...]) -> str:
    for code, old, new in changes:
        assert old in source, f"{code}: {old!r} is not in the script"
        source = source.replace(old, new)
    return source


def run(source: str, epochs: int) -> tuple[torch.nn.Module, Curve, list[str]]:
    """Run a script under a doctor: its network, (loss, accuracy) of each epoch, and what the doctor says."""
    scope: dict[str, Any] = {"__name__": "script"}
    exec(compile(source, str(SCRIPT), "exec"), scope)  # the script of this folder, and nothing else
    doctors: list[sw.Doctor] = []

    def watch(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> sw.Doctor:
        doctors.append(sw.Doctor(model, optimizer, live=False))
        return doctors[-1]

    train: Callable[..., tuple[torch.nn.Module, Curve]] = scope["train"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of two of the mistakes, once
        net, history = train(watch, epochs)
    doctors[0].close()
    return net, history, [f"{one.code} {one.check.name}" for one in doctors[0].findings]


def main() -> None:
    chosen = options(__doc__)
    epochs = 12 if chosen.quick else 60
    broken = SCRIPT.read_text()
    numbers: dict[str, Any] = {"lint, as written": sorted({one.code for one in lint_source(broken)})}
    fixed = mended(broken)
    numbers["lint, after --fix"] = sorted({one.code for one in lint_source(fixed)})
    linted = mended(changed(fixed, BY_HAND))
    numbers["lint, in the end"] = sorted({one.code for one in lint_source(linted)})
    scaled = changed(linted, BY_DOCTOR)

    net, _, _ = run(scaled, 1)
    recipe = sw.advise(net, task="image classification", batch_size=30, steps=20 * epochs)
    rate = sw.advise(net, task="image classification", batch_size=30, steps=20 * epochs, optimizer="adam").lr
    cured = changed(scaled, (("R08", "lr=0.5", f"lr={rate:.2g}"),))
    numbers["advice"] = f"{recipe.optimizer}, lr {recipe.lr:.2g}; with Adam, lr {rate:.2g}"

    figure, (losses, accuracies) = panels(1, 2, (11, 4.2))
    stages = (("as written", broken), ("after the linter", linted), ("inputs scaled", scaled), ("rate advised", cured))
    for color, (name, source) in zip(COLORS, stages, strict=False):
        _, history, findings = run(source, epochs)
        numbers[f"{name}, doctor"] = findings
        numbers[f"{name}, accuracy"] = round(history[-1][1], 4)
        epoch = range(1, epochs + 1)
        losses.plot(epoch, [loss for loss, _ in history], color=color, label=name)
        accuracies.plot(epoch, [accuracy for _, accuracy in history], color=color, label=name)
    losses.set(title="training loss", xlabel="epoch", yscale="log")
    accuracies.set(title="accuracy on 1,197 held-out digits", xlabel="epoch", ylim=(0, 1))
    accuracies.legend()
    finish(figure, numbers, chosen)


if __name__ == "__main__":
    main()
