"""A recurrent network trained without clipping."""

from __future__ import annotations

from collections.abc import Iterator

from stepwell.findings import Check, Finding
from stepwell.lint.analysis import Script, settings

CHECK = Check(
    code="SW909",
    name="no-clipping-for-recurrent",
    severity="note",
    certainty="advice",
    looks_for="an LSTM, GRU or RNN is trained, and nothing clips its gradients",
    why="gradients through many steps may grow without bound, and one such batch spoils the weights",
    instead="clip the norm of the gradients, and log how often it bites",
    silent_when="the source mentions clipping. Limits: short sequences rarely need it",
    example_bad="model = nn.LSTM(8, 8)\nfor x, y in loader:\n    loss(model(x), y).backward()\n    "
    "optimizer.step()\n    optimizer.zero_grad()",
    example_good="model = nn.LSTM(8, 8)\nfor x, y in loader:\n    loss(model(x), y).backward()\n    "
    "clip_grad_norm_(model.parameters(), 1.0)\n    optimizer.step()\n    optimizer.zero_grad()",
    reference="https://arxiv.org/abs/1211.5063",
)
FIX = ""


def find(script: Script) -> Iterator[Finding]:
    if "clip" in script.source.lower() or not settings.trains(script):
        return
    place = settings.layer(script, "LSTM|GRU|RNN|LSTMCell|GRUCell|RNNCell")
    step = next((event for event in script.of_kind("step") if event.loops), None)
    if place is not None and step is not None:
        yield script.finding(
            CHECK, step.node, "a recurrent network is updated without clipping", [(place, "the recurrent layer")]
        )


BAD = (
    """
import torch
model = torch.nn.LSTM(8, 8)
o = torch.optim.Adam(model.parameters())
for x, y in loader:
    o.zero_grad()
    loss_fn(model(x), y).backward()
    o.step()  # expect
""",
    """
import torch
model = torch.nn.GRU(8, 8)
o = torch.optim.Adam(model.parameters())
for x, y in loader:
    o.zero_grad()
    loss_fn(model(x), y).backward()
    o.step()  # expect
""",
    """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.r = nn.RNN(8, 8)
model = Net()
o = torch.optim.SGD(model.parameters(), lr=0.1)
for x, y in loader:
    o.zero_grad()
    loss_fn(model(x), y).backward()
    o.step()  # expect
""",
    """
import torch
from torch.nn import LSTMCell
model = LSTMCell(8, 8)
o = torch.optim.Adam(model.parameters())
for x, y in loader:
    o.zero_grad()
    loss_fn(model(x), y).backward()
    o.step()  # expect
""",
    """
import torch
model = torch.nn.LSTM(8, 8)

def train(model, loader, o):
    for x, y in loader:
        o.zero_grad()
        loss_fn(model(x), y).backward()
        o.step()  # expect
train(model, loader, torch.optim.Adam(model.parameters()))
""",
)
GOOD = (
    """
import torch
model = torch.nn.LSTM(8, 8)
o = torch.optim.Adam(model.parameters())
for x, y in loader:
    o.zero_grad()
    loss_fn(model(x), y).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    o.step()
""",
    """
import torch
model = torch.nn.Linear(2, 2)
o = torch.optim.Adam(model.parameters())
for x, y in loader:
    o.zero_grad()
    loss_fn(model(x), y).backward()
    o.step()
""",
    """
import torch
model = torch.nn.LSTM(8, 8)
o = torch.optim.Adam(model.parameters())
""",
    """
import torch
model = torch.nn.LSTM(8, 8)
o = torch.optim.Adam(model.parameters())
for x, y in loader:
    o.zero_grad()
    loss_fn(model(x), y).backward()
    clip_gradient(model, 0.25)
    o.step()
""",
    """
import torch
model = torch.nn.Linear(8, 8)
o = torch.optim.Adam(model.parameters())
for x, y in loader:
    o.zero_grad()
    loss_fn(model(x), y).backward()
    o.step()
""",
)
