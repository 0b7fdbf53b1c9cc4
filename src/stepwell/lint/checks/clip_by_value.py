"""Gradients that are clipped value by value."""

from __future__ import annotations

from collections.abc import Iterator

from stepwell.findings import Check, Finding
from stepwell.lint.analysis import Script

CHECK = Check(
    code="SW910",
    name="clip-by-value",
    severity="note",
    certainty="advice",
    looks_for="clip_grad_value_ is called",
    why="each value is clipped on its own, which turns the direction of the update; clipping the norm keeps it",
    instead="use clip_grad_norm_, and log the norm to choose the threshold",
    silent_when="the norm is clipped. Limits: Adam divides by the second moment anyway, so that the difference "
    "is smaller there",
    example_bad="torch.nn.utils.clip_grad_value_(model.parameters(), 0.5)",
    example_good="torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)",
    reference="https://docs.pytorch.org/docs/stable/generated/torch.nn.utils.clip_grad_value_.html",
)
FIX = ""


def find(script: Script) -> Iterator[Finding]:
    for places in script.places("clip"):
        if places[0].name == "value":
            yield script.finding(CHECK, places[0].node, "gradients are clipped value by value")


BAD = (
    """
import torch
for x, y in loader:
    optimizer.zero_grad()
    loss_fn(model(x), y).backward()
    torch.nn.utils.clip_grad_value_(model.parameters(), 0.5)  # expect
    optimizer.step()
""",
    """
from torch.nn.utils import clip_grad_value_
import torch
for x, y in loader:
    optimizer.zero_grad()
    loss_fn(model(x), y).backward()
    clip_grad_value_(model.parameters(), 0.5)  # expect
    optimizer.step()
""",
    """
from torch import nn
import torch
for x, y in loader:
    optimizer.zero_grad()
    loss_fn(model(x), y).backward()
    nn.utils.clip_grad_value_(model.parameters(), clip_value=1.0)  # expect
    optimizer.step()
""",
    """
from accelerate import Accelerator
accelerator = Accelerator()
import torch
for x, y in loader:
    optimizer.zero_grad()
    loss_fn(model(x), y).backward()
    accelerator.clip_grad_value_(model.parameters(), 0.5)  # expect
    optimizer.step()
""",
    """
import torch
def update(self, loss):
    self.optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_value_(self.model.parameters(), 100)  # expect
    self.optimizer.step()
""",
)
GOOD = (
    """
import torch
for x, y in loader:
    optimizer.zero_grad()
    loss_fn(model(x), y).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
""",
    """
import torch
for x, y in loader:
    optimizer.zero_grad()
    loss_fn(model(x), y).backward()
    pass
    optimizer.step()
""",
    """
import torch
for x, y in loader:
    optimizer.zero_grad()
    loss_fn(model(x), y).backward()
    x.clamp_(0, 1)
    optimizer.step()
""",
    """
import torch
for x, y in loader:
    optimizer.zero_grad()
    loss_fn(model(x), y).backward()
    print('clip_grad_value_')
    optimizer.step()
""",
    """
import torch
for x, y in loader:
    optimizer.zero_grad()
    loss_fn(model(x), y).backward()
    accelerator.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
""",
)
