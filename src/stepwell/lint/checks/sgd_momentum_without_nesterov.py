"""SGD with heavy-ball momentum."""

from __future__ import annotations

from collections.abc import Iterator

from stepwell.findings import Check, Finding
from stepwell.lint.analysis import Script, settings

CHECK = Check(
    code="SW902",
    name="sgd-momentum-without-nesterov",
    severity="note",
    certainty="advice",
    looks_for="SGD is given momentum, and nesterov is not set",
    why="Nesterov momentum is often a little faster at the same cost",
    instead="try nesterov=True, and compare",
    silent_when="nesterov is given, or momentum is no number in the source. Limits: not always better: "
    "AlgoPerf's tuned search picked heavy-ball for ResNet-50 and Nesterov for fastMRI",
    example_bad="optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)",
    example_good="optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)",
    reference="https://docs.pytorch.org/docs/stable/generated/torch.optim.SGD.html",
)
FIX = ""


def find(script: Script) -> Iterator[Finding]:
    for event, optimizer, name in settings.optimizers(script):
        momentum = settings.number(optimizer, 2, "momentum")
        if (
            name != "SGD"
            or not momentum
            or settings.has_hidden(optimizer)
            or optimizer.argument(5, "nesterov") is not None
        ):
            continue
        if settings.number(optimizer, 3, "dampening"):
            continue  # Nesterov needs 0
        yield script.finding(CHECK, event.node, f"SGD has momentum {momentum:g} without nesterov")


BAD = (
    """
import torch
model = torch.nn.Linear(2, 2)
o = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)  # expect
""",
    """
from torch.optim import SGD
o = SGD(model.parameters(), 0.1, 0.9)  # expect
""",
    """
import torch
model = torch.nn.Linear(2, 2)
o = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.95, weight_decay=1e-4)  # expect
""",
    """
import torch.optim as optim
def make(model):
    return optim.SGD(model.parameters(), lr=1e-2, momentum=0.9)  # expect
""",
    """
import torch
class T:
    def configure_optimizers(self):
        return torch.optim.SGD(self.model.parameters(), lr=self.lr, momentum=0.9)  # expect
""",
)
GOOD = (
    """
import torch
model = torch.nn.Linear(2, 2)
o = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
""",
    """
import torch
model = torch.nn.Linear(2, 2)
o = torch.optim.SGD(model.parameters(), lr=0.1)
""",
    """
import torch
model = torch.nn.Linear(2, 2)
o = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=False)
""",
    """
import torch
model = torch.nn.Linear(2, 2)
o = torch.optim.SGD(model.parameters(), lr=0.1, momentum=args.momentum)
""",
    """
import torch
model = torch.nn.Linear(2, 2)
o = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, dampening=0.1)
""",
)
