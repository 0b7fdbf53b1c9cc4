"""Adam with weight decay inside of its adaptive step."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from stepwell.findings import Check, Finding, Fix
from stepwell.lint import edits
from stepwell.lint.analysis import Script, settings

CHECK = Check(
    code="SW901",
    name="adam-with-coupled-decay",
    severity="note",
    certainty="advice",
    looks_for="Adam, NAdam or RAdam is given weight_decay, and not decoupled_weight_decay",
    why="the decay is added to the gradient and divided by the second moment: weights with large gradients "
    "hardly decay; decoupled decay usually tunes better",
    instead="use AdamW (tune weight_decay again: its size means something else there)",
    silent_when="weight_decay is 0 or no number in the source. Limits: graph networks use this form on purpose "
    "(GCN: Adam 0.01 with 5e-4)",
    example_bad="optimizer = torch.optim.Adam(model.parameters(), weight_decay=1e-2)",
    example_good="optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)",
    reference="https://arxiv.org/abs/1711.05101",
)
FIX = "unsafe"


def find(script: Script) -> Iterator[Finding]:
    for event, optimizer, name in settings.optimizers(script):
        if (
            name not in ("Adam", "NAdam", "RAdam")
            or not optimizer.cls.startswith("torch.optim")
            or settings.has_hidden(optimizer)
        ):
            continue
        decay = settings.number(optimizer, 4, "weight_decay")
        if not decay or optimizer.argument(-1, "decoupled_weight_decay") is not None:
            continue
        yield script.finding(
            CHECK,
            event.node,
            f"{name} is given weight_decay={decay:g}, which it adds to the gradient",
            fix=_fix(script, optimizer.made, name),
        )


def _fix(script: Script, call: ast.Call | None, name: str) -> Fix | None:
    if name != "Adam" or call is None or not isinstance(call.func, ast.Attribute):
        return None
    owner = edits.text(script, call.func.value)
    return Fix("use AdamW", (edits.replace(script, call.func, f"{owner}.AdamW"),), safe=False)


BAD = (
    """
import torch
model = torch.nn.Linear(2, 2)
optimizer = torch.optim.Adam(model.parameters(), weight_decay=1e-2)  # expect
""",
    """
from torch import nn, optim
model = nn.Linear(2, 2)
opt = optim.Adam(model.parameters(), lr=1e-3, weight_decay=0.1)  # expect
""",
    """
import torch
model = torch.nn.Linear(2, 2)
optimizer = torch.optim.NAdam(model.parameters(), weight_decay=0.01)  # expect
""",
    """
from torch.optim import Adam as A
opt = A(model.parameters(), 1e-3, (0.9, 0.999), 1e-8, 5e-4)  # expect
""",
    """
import torch
class Trainer:
    def __init__(self, model):
        self.opt = torch.optim.RAdam(model.parameters(), weight_decay=1e-4)  # expect
""",
)
GOOD = (
    """
import torch
model = torch.nn.Linear(2, 2)
optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
""",
    """
import torch
model = torch.nn.Linear(2, 2)
optimizer = torch.optim.Adam(model.parameters(), weight_decay=0)
""",
    """
import torch
model = torch.nn.Linear(2, 2)
optimizer = torch.optim.RAdam(model.parameters(), weight_decay=1e-2, decoupled_weight_decay=True)
""",
    """
import torch
model = torch.nn.Linear(2, 2)
optimizer = torch.optim.Adam(model.parameters(), weight_decay=args.decay)
""",
    """
import torch
model = torch.nn.Linear(2, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=1e-4)
""",
)
