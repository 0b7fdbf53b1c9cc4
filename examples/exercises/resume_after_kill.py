"""Resume after a kill: a run that was killed in the middle ends with the same bits as a run that was not.

The program trains to the end. It then starts itself twice as another process: once until that process is killed without
warning (SIGKILL, which no program can catch), and once more, to resume. A checkpoint must hold all that the run depends
on: the model has dropout, the loader shuffles, and the Step has a schedule, an average of the weights and 8-bit state.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import stepwell as sw

POINTS, BATCH, EPOCHS, SAVE_EVERY = 1024, 32, 5, 12


def rings(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Points [count, 2] on four noisy rings around the origin, and the ring of each [count]."""
    generator = torch.Generator().manual_seed(seed)
    ring = torch.randint(4, (count,), generator=generator)
    angle = 2 * torch.pi * torch.rand(count, generator=generator)
    radius = 1 + ring + 0.2 * torch.randn(count, generator=generator)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], 1), ring


def train(folder: Path) -> None:
    """The training program: it does not know whether it is the first start or a resumed run, but for one `if`."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    shuffle = torch.Generator().manual_seed(0)
    loader = DataLoader(TensorDataset(*rings(POINTS, seed=1)), BATCH, shuffle=True, generator=shuffle)
    step = sw.Step(
        sw.AdamW(model.named_parameters(), lr=3e-3, state="int8"),
        sw.warmup(0.1).then(sw.cosine(to=0.01)),
        clip_norm=1.0,
        ema=0.98,
        total_steps=EPOCHS * len(loader),
        model=model,
        generators={"shuffle": shuffle},
    )
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        step.load(checkpoint)
    with (folder / "losses.txt").open("a", buffering=1) as losses:
        while step.passes < EPOCHS:  # counted by the Step: a checkpoint may be that of the last batch of a pass
            for x, y in step.batches(loader):  # after a load, the first pass begins where the checkpoint was saved
                done = step(functional.cross_entropy(model(x), y))
                losses.write(f"{step.number} {done.loss!r}\n")
                if step.number % SAVE_EVERY == 0:
                    step.save(checkpoint)
    with step.averaged():
        averaged = [p.detach().clone() for p in model.parameters()]
    weights = [*model.state_dict().values(), *averaged]
    digest = hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in weights)).hexdigest()
    (folder / "digest.txt").write_text(digest)


def read(folder: Path) -> list[tuple[int, float]]:
    """The number and the loss of every update that was written; a line that the kill cut short is left out."""
    lines = (folder / "losses.txt").read_text().splitlines(keepends=True) if (folder / "losses.txt").exists() else []
    return [(int(line.split()[0]), float(line.split()[1])) for line in lines if line.endswith("\n")]


def main() -> None:
    from exercise import COLORS, finish, options, panels

    chosen = options(__doc__)
    updates = EPOCHS * POINTS // BATCH
    with tempfile.TemporaryDirectory() as name:
        whole, broken = Path(name, "whole"), Path(name, "broken")
        whole.mkdir()
        broken.mkdir()
        train(whole)
        command = [sys.executable, __file__, "--train", str(broken)]
        process = subprocess.Popen(command)
        while len(read(broken)) < updates // 2 + 8 and process.poll() is None:  # in a pass, between two checkpoints
            time.sleep(0.002)
        process.kill()
        process.wait()
        before = read(broken)
        subprocess.run(command, check=True)
        after = read(broken)[len(before) :]
        unbroken = read(whole)
        digests = [(folder / "digest.txt").read_text() for folder in (whole, broken)]

    figure, (axis,) = panels(1, 1, (9, 4))
    axis.plot(*zip(*unbroken, strict=True), color="0.75", linewidth=4, label="unbroken run")
    axis.plot(*zip(*before, strict=True), color=COLORS[1], linewidth=1, label="until the kill")
    axis.plot(*zip(*after, strict=True), color=COLORS[0], linewidth=1, label="after the resume")
    axis.axvline(before[-1][0], color=COLORS[1], linestyle="--", linewidth=1)
    axis.set(title="a run killed and resumed, over the run that was not killed", xlabel="updates", ylabel="loss")
    axis.set_yscale("log")
    axis.legend()
    numbers = {
        "killed after update": before[-1][0],
        "resumed at update": after[0][0],
        "updates made twice": before[-1][0] - after[0][0] + 1,
        "losses equal": [*before[: after[0][0] - 1], *after] == unbroken,
        "weights and averages equal bit for bit": digests[0] == digests[1],
    }
    finish(figure, numbers, chosen)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--train"]:
        parser = argparse.ArgumentParser()
        parser.add_argument("--train", type=Path)
        torch.set_num_threads(1)
        train(parser.parse_args().train)
    else:
        main()
