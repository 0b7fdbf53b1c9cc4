"""An evaluation without a guard, in a function that only other files call: one of them may guard it."""

from __future__ import annotations

from collections.abc import Iterator

from stepwell.findings import Check, Finding
from stepwell.lint.analysis import Script
from stepwell.lint.checks.eval_without_no_grad import finding, is_from_outside, unguarded

CHECK = Check(
    code="SW403",
    name="eval-without-no-grad-unseen-caller",
    severity="warning",
    certainty="certain",
    looks_for="a function that nothing in its file calls puts a model into eval mode and goes over a loader without "
    "torch.no_grad()",
    why="unless the caller guards it, every forward pass records a graph that nobody uses",
    instead="decorate the function with @torch.no_grad(), which does no harm where the caller guards it, too",
    silent_when="a caller in the file is seen (then it is SW401), or gradients are used",
    example_bad="def evaluate(model, loader):\n    model.eval()\n    for x, y in loader:\n        print(model(x))",
    example_good="@torch.no_grad()\ndef evaluate(model, loader):\n    model.eval()\n    for x, y in loader:\n    "
    "    print(model(x))",
    reference="https://docs.pytorch.org/docs/stable/generated/torch.no_grad.html",
)
FIX = "safe"


def find(script: Script) -> Iterator[Finding]:
    for one in unguarded(script):
        if is_from_outside(one):
            yield finding(script, CHECK, one)


BAD = (
    "import torch\n" + CHECK.example_bad.replace("print(model(x))", "print(model(x))  # expect"),
    """
import torch
class Tester:
    def test(self):
        self.model.eval()
        for batch in self.test_loader:
            self.results.append(self.model(batch))  # expect
""",
    """
import torch
def test_epoch(net, test_loader, criterion):
    net.eval()
    total = 0.0
    for i, (x, y) in enumerate(test_loader):
        total += criterion(net(x), y).item()  # expect
    return total / len(test_loader)
""",
    """
import torch
def predict(model, dataloader, device):
    model.to(device)
    model.eval()
    return [model(batch.to(device)) for batch in dataloader] if False else collect(model, dataloader)
def collect(model, dataloader):
    results = []
    model.eval()
    for batch in dataloader:
        results.append(model(batch).argmax(1).cpu())  # expect
    return results
""",
    """
import torch
def validate(self, data_loader):
    self.model.eval()
    for x in data_loader:
        self.meter.update(self.model(x))  # expect
""",
)
GOOD = (
    CHECK.example_good,
    """
import torch
def evaluate(model, loader):
    model.eval()
    with torch.inference_mode():
        for x in loader:
            print(model(x))
""",
    """
import torch
def attack(model, loader):
    model.eval()
    for x, y in loader:
        x.requires_grad = True
        print(model(x))
""",
    """
from lightning import LightningModule
class Net(LightningModule):
    def validation_step(self, batch, index):
        self.model.eval()
        for part in batch:
            print(self.model(part))
""",
    """
import torch
def features(model, loader):
    model.eval()
    for x in loader:
        with torch.no_grad():
            print(model(x))
""",
)
