"""Lines of a user that are wrong: mypy and pyright must each refuse every one that is marked, and no other line."""

# ruff: noqa: F401

from __future__ import annotations

import torch

import stepwell as sw
from stepwell.optimizers import Lyon  # wrong

model = torch.nn.Linear(2, 2)
sw.AdmaW(model.parameters())  # wrong
sw.AdamW(model.parameters(), learning_rate=1.0)  # wrong
sw.AdamW(model.parameters(), lr="0.1")  # wrong
sw.AdamW(model.parameters(), betas=0.9)  # wrong
sw.AdamW(model.parameters(), weight_decy=0.1)  # wrong
sw.AdamW(model.parameters(), state="int9")  # wrong
sw.AdamW(model.parameters(), weights="splitted")  # wrong
sw.AdamW(model.parameters(), backend="cuda")  # wrong
sw.AdamW(model.parameters(), maximise=True)  # wrong
sw.AdamW(model.parameters(), maximize="yes")  # wrong
sw.AdamW(model.parameters(), seed=0.5)  # wrong
sw.AdamW(model.parameters(), fused=True)  # wrong
sw.AdamW(3)  # wrong
sw.AdamW()  # wrong
sw.NAdam(model.parameters(), decoupled_weight_decy=True)  # wrong
sw.AdamW8bit(model.parameters(), state="eight")  # wrong
sw.LBFGS(model.parameters(), momentum=0.9)  # wrong
sw.SAM(sw.SGD(model.parameters(), lr=0.1), rhoo=0.05)  # wrong
sw.SAM(model.parameters())  # wrong
sw.schedules.cosin(10)  # wrong
sw.warmup("500")  # wrong
sw.warmup(500).than(sw.cosine(10))  # wrong
sw.cosine(10, until=0.1)  # wrong
sw.grups.by_role(model)  # wrong
sw.groups.by_rolle(model)  # wrong
sw.groups.by_role(model, lrr=0.1)  # wrong
sw.find_lr(model, sw.SGD(model, lr=0.1), [], lo=1e-5)  # wrong
sw.create(sw.AdamW, model)  # wrong
step = sw.Step(sw.AdamW(model.parameters()), clip_norm=1.0)
step.clip_nrom = 3  # wrong
step.clip = 3  # wrong
step.bacthes([])  # wrong
step(1.0)  # wrong
done = step(model(torch.ones(2)).sum())
print(done.grad_nrom)  # wrong
number: str = step.number  # wrong
sw.Step(sw.AdamW(model.parameters()), sw.cosine(10), acumulate=2)  # wrong
sw.Scheduler(sw.cosine(10))  # wrong
for batch in step.batches([1, 2]):
    print(batch.x)  # wrong
