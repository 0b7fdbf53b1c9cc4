"""Checkpoints that no training can resume from."""

from __future__ import annotations

import re
from collections.abc import Iterator

from stepwell.findings import Check, Finding
from stepwell.lint.analysis import Event, Many, Script

CHECK = Check(
    code="SW911",
    name="checkpoint-without-optimizer",
    severity="note",
    certainty="advice",
    looks_for="inside the training loop a checkpoint is saved that holds weights only",
    why="a run that resumes from it loses moments, schedule and epoch: the first updates are wrong",
    instead="save the states of optimizer and scheduler and the epoch with the weights",
    silent_when="the optimizer is saved anywhere in the file. Limits: weights are enough to evaluate and to fine-tune",
    example_bad="torch.save(model.state_dict(), 'last.pt')",
    example_good="torch.save({'model': model.state_dict(), 'optimizer': optimizer.state_dict(), 'epoch': epoch}, "
    "'last.pt')",
    reference="https://docs.pytorch.org/tutorials/beginner/saving_loading_models.html",
)
FIX = ""


def find(script: Script) -> Iterator[Finding]:
    if re.search(
        r"optim\w*(\[\w+\])?\.state_dict|opt\w*\.state_dict|save_state\(|DCP\.|dcp\.|dist_cp|get_state_dict|save_checkpoint\(.*optim",
        script.source,
    ):
        return
    for places in script.places("save"):
        event = places[0]
        if _is_inside_training(event) and not (isinstance(event.value, Many) and event.value.keys is None):
            text = script.text(event.call.args[0]) if event.call is not None and event.call.args else ""
            if ("state_dict" in text and "sched" not in text) or isinstance(event.value, Many):
                yield script.finding(
                    CHECK, event.node, "this checkpoint of the training loop holds no state of the optimizer"
                )
                return


def _is_inside_training(event: Event) -> bool:
    return any(one.kind == "step" for loop in event.loops[:1] for one in loop.events())


BAD = (
    """
import torch
for epoch in range(9):
    for x, y in loader:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
    torch.save(model.state_dict(), 'last.pt')  # expect
""",
    """
import torch
for epoch in range(9):
    for x, y in loader:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
    torch.save({'model': model.state_dict(), 'epoch': epoch}, 'last.pt')  # expect
""",
    """
import torch
for epoch in range(9):
    for x, y in loader:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
    if epoch % 5 == 0:
        torch.save(model.state_dict(), f'{epoch}.pt')  # expect
""",
    """
import torch
def save(model, epoch):
    torch.save(model.state_dict(), f'{epoch}.pt')  # expect
for epoch in range(9):
    for x, y in loader:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
    save(model, epoch)
""",
    """
import torch
for epoch in range(9):
    for x, y in loader:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
    torch.save(model.module.state_dict(), 'last.pt')  # expect
""",
)
GOOD = (
    """
import torch
for epoch in range(9):
    for x, y in loader:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
    torch.save({'model': model.state_dict(), 'optimizer': optimizer.state_dict()}, 'last.pt')
""",
    """
import torch
for epoch in range(9):
    for x, y in loader:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
    pass
torch.save(model.state_dict(), 'final.pt')
""",
    """
import torch
for epoch in range(9):
    for x, y in loader:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
    pass
""",
    """
import torch
for epoch in range(9):
    for x, y in loader:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
    accelerator.save_state('last')
""",
    """
import torch
for epoch in range(9):
    for x, y in loader:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
    torch.save(losses, 'losses.pt')
""",
)
