"""A model that is saved as an object, with the path of its class."""

from __future__ import annotations

import re
from collections.abc import Iterator

from stepwell.findings import Check, Finding
from stepwell.lint.analysis import Script, Thing, argument
from stepwell.lint.analysis.syntax import written

CHECK = Check(
    code="SW502",
    name="whole-module-pickled",
    severity="warning",
    certainty="likely",
    looks_for="torch.save() is given a model, and not its state_dict()",
    why="the file holds the path of the class, not its code: it cannot be loaded once the class is renamed, moved or "
    "changed, and torch.load refuses it unless weights_only=False, which runs what the file says",
    instead="save model.state_dict()",
    silent_when="the state_dict is saved, or a scripted or exported model",
    example_bad='torch.save(model, "model.pt")',
    example_good='torch.save(model.state_dict(), "model.pt")',
    reference="https://docs.pytorch.org/tutorials/beginner/saving_loading_models.html",
)
FIX = ""


def find(script: Script) -> Iterator[Finding]:
    for places in script.places("save"):
        event = places[0]
        if all(isinstance(one.value, Thing) and one.value.kind == "model" for one in places):
            model = event.value
            assert isinstance(model, Thing)
            target = argument(event.call, 1, "f") if event.call is not None else None
            if target is not None and re.search(r"buf|bytes|stream|\bio\b", written(target), re.I):
                continue  # a copy in memory
            if not model.sure and any(
                word in model.name.lower() for word in ("state", "dict", "weight", "param", "label")
            ):
                continue
            yield script.finding(
                CHECK, event.node, f"{model.name or 'a model'} is saved as an object, with the path of its class"
            )


BAD = (
    "import torch\nloss_fn(model(x), y).backward()\noptimizer.step()\n" + CHECK.example_bad + "  # expect",
    """
import torch
model = torch.nn.Linear(2, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for x in loader:
    optimizer.zero_grad()
    model(x).sum().backward()
    optimizer.step()
torch.save(model, "model.pth")  # expect
""",
    """
import torch
class Trainer:
    def __init__(self, model):
        self.model = model
        self.optimizer = torch.optim.Adam(model.parameters())
    def save(self, path):
        torch.save(self.model, path)  # expect
trainer = Trainer(torch.nn.Linear(2, 2))
trainer.save("model.pt")
""",
    """
import torch
from torch.nn import DataParallel
net = DataParallel(torch.nn.Linear(2, 2))
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
torch.save(net.module, f"{path}/net.pt")  # expect
""",
    """
import torch
class Net(torch.nn.Module):
    pass
net = Net().to("cuda")
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
torch.save(obj=net, f="net.pt")  # expect
""",
)
GOOD = (
    "import torch\n" + CHECK.example_good,
    """
import torch
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, "last.pt")
""",
    """
import torch
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
torch.save(optimizer.state_dict(), "optimizer.pt")
""",
    """
import torch
scripted = torch.jit.script(model)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scripted.save("model.pt")
""",
    """
import torch
model_state = {k: v.cpu() for k, v in model.state_dict().items()}
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
torch.save(model_state, "model.pt")
""",
)
