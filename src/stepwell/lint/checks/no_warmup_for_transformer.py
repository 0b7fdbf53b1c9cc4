"""A transformer trained at a constant rate."""

from __future__ import annotations

import re
from collections.abc import Iterator

from stepwell.findings import Check, Finding
from stepwell.lint.analysis import Script, settings

CHECK = Check(
    code="SW908",
    name="no-warmup-for-transformer",
    severity="note",
    certainty="advice",
    looks_for="a model with attention is trained, and neither a schedule nor a warmup is seen",
    why="early steps of Adam at the full rate may diverge, and a rate that never falls leaves accuracy behind; "
    "nearly all published transformers warm up and decay",
    instead="add a warmup (2/(1-beta2) steps is a safe default) and a decay",
    silent_when="a scheduler is made, or the source mentions warmup, a schedule or a group's lr. Limits: "
    "diffusion transformers (DiT) train at a constant rate",
    example_bad="model = nn.TransformerEncoder(layer, 6)\nfor x, y in loader:\n    loss(model(x), "
    "y).backward()\n    optimizer.step()\n    optimizer.zero_grad()",
    example_good="model = nn.TransformerEncoder(layer, 6)\nscheduler = OneCycleLR(optimizer, 1e-3, "
    "total_steps=1000)\nfor x, y in loader:\n    loss(model(x), y).backward()\n    optimizer.step()\n"
    "    optimizer.zero_grad()\n    scheduler.step()",
    reference="https://arxiv.org/abs/1910.04209",
)
FIX = ""
_SCHEDULES = re.compile(r"warm_?up|sched|anneal|lr_lambda|\[.lr.\]|decay_lr|adjust_l|get_lr", re.I)


def find(script: Script) -> Iterator[Finding]:
    place = settings.attention(script) if settings.trains(script) else None
    if place is None or _SCHEDULES.search(script.source):
        return
    made = next(((event, name) for event, _, name in settings.optimizers(script) if "Adam" in name), None)
    if made is None:
        return
    yield script.finding(
        CHECK,
        made[0].node,
        f"the rate of {made[1]} is constant, and the model has attention",
        [(place, "attention is used here")],
    )


BAD = (
    """
import torch
model = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(64, 4), 2)
o = torch.optim.AdamW(model.parameters(), lr=1e-4)  # expect
for x, y in loader:
    o.zero_grad()
    loss_fn(model(x), y).backward()
    o.step()
""",
    """
import torch
model = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(64, 4), 2)
o = torch.optim.Adam(model.parameters())  # expect
for x, y in loader:
    o.zero_grad()
    loss_fn(model(x), y).backward()
    o.step()
""",
    """
import torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained('gpt2')
o = torch.optim.AdamW(model.parameters(), lr=5e-5)  # expect
for x, y in loader:
    o.zero_grad()
    loss_fn(model(x), y).backward()
    o.step()
""",
    """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.MultiheadAttention(64, 4)
model = Net()
o = torch.optim.AdamW(model.parameters())  # expect
for x, y in loader:
    o.zero_grad()
    loss_fn(model(x), y).backward()
    o.step()
""",
    """
import torch
model = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(64, 4), 2)
def train(model, loader):
    o = torch.optim.AdamW(model.parameters())  # expect
    for x, y in loader:
        o.zero_grad()
        loss_fn(model(x), y).backward()
        o.step()
train(model, loader)
""",
)
GOOD = (
    """
import torch
model = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(64, 4), 2)
o = torch.optim.AdamW(model.parameters())
s = torch.optim.lr_scheduler.OneCycleLR(o, 1e-3, 100)
for x, y in loader:
    o.zero_grad()
    loss_fn(model(x), y).backward()
    o.step()
    s.step()
""",
    """
import torch
model = torch.nn.Linear(2, 2)
o = torch.optim.AdamW(model.parameters())
for x, y in loader:
    o.zero_grad()
    loss_fn(model(x), y).backward()
    o.step()
""",
    """
import torch
model = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(64, 4), 2)
o = torch.optim.AdamW(model.parameters())
""",
    """
import torch
model = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(64, 4), 2)
o = torch.optim.AdamW(model.parameters())
o.param_groups[0]['lr'] = 0.1
for x, y in loader:
    o.zero_grad()
    loss_fn(model(x), y).backward()
    o.step()
""",
    """
import torch
model = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(64, 4), 2)
o = torch.optim.SGD(model.parameters(), lr=0.1)
for x, y in loader:
    o.zero_grad()
    loss_fn(model(x), y).backward()
    o.step()
""",
)
