"""Muon for parameters that are no matrices."""

from __future__ import annotations

import re
from collections.abc import Iterator

from stepwell.findings import Check, Finding
from stepwell.lint.analysis import Script, settings

CHECK = Check(
    code="SW912",
    name="one-optimizer-for-everything",
    severity="note",
    certainty="advice",
    looks_for="a Muon-type optimizer is given all parameters of a model",
    why="Muon orthogonalizes matrices of hidden layers: embeddings, the output head, norms and biases train "
    "badly with it, and nothing says so",
    instead="give Muon the hidden matrices only, and AdamW the rest",
    silent_when="the parameters are chosen, or a class that sorts them itself is used. Limits: some packages "
    "send what is no matrix to AdamW on their own",
    example_bad="optimizer = torch.optim.Muon(model.parameters(), lr=0.02)",
    example_good="optimizer = torch.optim.Muon([p for p in model.blocks.parameters() if p.ndim == 2], lr=0.02)",
    reference="https://kellerjordan.github.io/posts/muon/",
)
FIX = ""


def find(script: Script) -> Iterator[Finding]:
    for event, optimizer, name in settings.optimizers(script):
        first = optimizer.argument(0, "params")
        if not re.search(r"Muon|Dion|Scion", name) or "WithAux" in name or first is None:
            continue
        if re.fullmatch(r"(list\()?(self|\w*(model|net|network))(\.module)?\.parameters\(\)\)?", script.text(first)):
            yield script.finding(CHECK, event.node, f"{name} is given all of {script.text(first)}")


BAD = (
    """
import torch
model = torch.nn.Linear(2, 2)
o = torch.optim.Muon(model.parameters(), lr=0.02)  # expect
""",
    """
import torch
from muon import Muon
o = Muon(model.parameters(), lr=0.02)  # expect
""",
    """
import torch
model = torch.nn.Linear(2, 2)
o = torch.optim.Muon(list(model.parameters()), lr=0.02)  # expect
""",
    """
import torch
class Net(torch.nn.Module):
    def configure_optimizers(self):
        return torch.optim.Muon(self.parameters(), lr=0.02)  # expect
""",
    """
from muon import SingleDeviceMuon
from torch import nn
net = nn.Linear(2, 2)
o = SingleDeviceMuon(net.parameters())  # expect
""",
)
GOOD = (
    """
import torch
model = torch.nn.Linear(2, 2)
o = torch.optim.Muon([p for p in model.parameters() if p.ndim == 2], lr=0.02)
""",
    """
from muon import MuonWithAuxAdam
o = MuonWithAuxAdam(model.parameters())
""",
    """
import torch
model = torch.nn.Linear(2, 2)
o = torch.optim.AdamW(model.parameters())
""",
    """
import torch
model = torch.nn.Linear(2, 2)
o = torch.optim.Muon(model.blocks.parameters())
""",
    """
import torch
model = torch.nn.Linear(2, 2)
o = torch.optim.Muon(hidden, lr=0.02)
""",
)
