"""The run that a test kills: `python killed.py FOLDER OPTIMIZER`. It goes on from its checkpoint, if there is one."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from stepwell.optimizers import AdamW, Sophia
from stepwell.schedules import cosine, warmup
from stepwell.step import GaussNewtonBartlett, Step

UPDATES = 40


def main(folder: Path, method: str) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    network = nn.Sequential(nn.Linear(8, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 4))
    shuffle = torch.Generator().manual_seed(7)
    made = {"AdamW": AdamW, "Sophia": Sophia}[method]
    step = Step(
        made(network.named_parameters(), lr=1e-2, backend="eager"),  # no compiling: it is started often
        warmup(5).then(cosine(UPDATES - 5)),
        clip_norm=0.5,
        accumulate=2,
        ema=0.9,
        model=network,
        generators={"shuffle": shuffle},
        estimator=GaussNewtonBartlett(every=3) if method == "Sophia" else None,
    )
    path = folder / "run.pt"
    if path.exists() or (folder / "run.1.pt").exists():
        step.load(path)
    while step.number < UPDATES:
        for _ in range(2):
            x = torch.randn(16, 8, generator=shuffle) + np.random.rand() + random.random()  # noqa: NPY002
            logits = network(x)
            loss = nn.functional.cross_entropy(logits, torch.randint(4, (16,)))
            step(loss, logits=logits if method == "Sophia" else None)
        step.save(path)
        print(step.number, flush=True)
    with step.averaged():
        averaged = {name: value.clone() for name, value in network.state_dict().items()}
    torch.save([dict(network.state_dict()), averaged], folder / "end.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
