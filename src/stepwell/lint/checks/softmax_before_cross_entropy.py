"""Probabilities where a loss expects logits: softmax or sigmoid is applied twice."""

from __future__ import annotations

from collections.abc import Iterator

from stepwell.findings import Check, Finding
from stepwell.lint.analysis import Script, Tensor
from stepwell.lint.analysis.flow import source

CHECK = Check(
    code="SW408",
    name="softmax-before-cross-entropy",
    severity="error",
    certainty="certain",
    looks_for="the output of a softmax reaches cross entropy, or that of a sigmoid reaches binary cross entropy "
    "with logits",
    why="the loss applies softmax (or sigmoid) itself: twice, it cannot come near 0, and gradients are small where the "
    "model is wrong",
    instead="give the loss the raw output, and apply softmax or sigmoid only to predict",
    silent_when="the probabilities go elsewhere (a metric, attention), or it is log_softmax, which does no harm",
    example_bad="loss = F.cross_entropy(F.softmax(model(x), dim=1), y)",
    example_good="loss = F.cross_entropy(model(x), y)",
    reference="https://docs.pytorch.org/docs/stable/generated/torch.nn.CrossEntropyLoss.html",
)
FIX = ""
_TWICE = {
    "CrossEntropyLoss": ("softmax", "sigmoid"),
    "cross_entropy": ("softmax", "sigmoid"),
    "BCEWithLogitsLoss": ("sigmoid", "softmax"),
    "binary_cross_entropy_with_logits": ("sigmoid", "softmax"),
    "MultiLabelSoftMarginLoss": ("sigmoid",),
    "multilabel_soft_margin_loss": ("sigmoid",),
}


def find(script: Script) -> Iterator[Finding]:
    for places in script.places("loss"):
        found = [
            _twice(event.target.cls if event.target is not None else "", event.extra.get("given")) for event in places
        ]
        if all(one is not None for one in found) and places[0].target is not None:
            event, tensor = places[0], found[0]
            assert tensor is not None
            assert event.target is not None
            name = event.target.cls.rsplit(".", 1)[-1]
            where = tensor.inner.node if tensor.inner is not None and tensor.inner.node is not None else tensor.node
            yield script.finding(
                CHECK,
                event.node,
                f"{name} is given the output of {tensor.by}, and expects logits",
                [(where, f"{tensor.by} is applied here")] if where is not None and hasattr(where, "lineno") else (),
            )


def _twice(cls: str, given: object) -> Tensor | None:
    """The probabilities that a loss is given."""
    names = _TWICE.get(cls.rsplit(".", 1)[-1]) if cls.startswith("torch.nn.") else None
    if names is None or not isinstance(given, Tensor):
        return None
    one = source(given)
    return one if one.by in names else None


BAD = (
    "import torch.nn.functional as F\n" + CHECK.example_bad + "  # expect\nloss.backward()",
    """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 3)
        self.softmax = nn.Softmax(dim=1)
    def forward(self, x):
        x = self.a(x)
        return self.softmax(x)
model = Net()
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for x, y in loader:
    optimizer.zero_grad()
    loss = criterion(model(x), y)  # expect
    loss.backward()
    optimizer.step()
""",
    """
import torch
net = torch.nn.Sequential(torch.nn.Linear(4, 1), torch.nn.Sigmoid())
loss_fn = torch.nn.BCEWithLogitsLoss()
def train_epoch(model, loader, opt):
    for x, y in loader:
        opt.zero_grad()
        out = model(x).squeeze(1)
        loss = loss_fn(out, y)  # expect
        loss.backward()
        opt.step()
train_epoch(net, loader, torch.optim.Adam(net.parameters()))
""",
    """
import torch
from lightning import LightningModule
class Model(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)
        self.loss = torch.nn.CrossEntropyLoss()
    def forward(self, x):
        return torch.softmax(self.layer(x), dim=-1)
    def training_step(self, batch, batch_idx):
        x, y = batch
        return self.loss(self(x), y)  # expect
    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())
""",
    """
import torch
class Trainer:
    def __init__(self, model):
        self.model = model
        self.criterion = torch.nn.CrossEntropyLoss()
        self.optimizer = torch.optim.AdamW(model.parameters())
    def step(self, x, y):
        probs = self.model(x).softmax(dim=1)
        loss = self.criterion(probs, y)  # expect
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
""",
)
GOOD = (
    """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self, sigmoid=False):
        super().__init__()
        layers = [nn.Linear(4, 8), nn.Linear(8, 3)]
        if sigmoid:
            layers.append(nn.Sigmoid())
        self.layers = nn.Sequential(*layers)
    def forward(self, x):
        return self.layers(x)
criterion = nn.CrossEntropyLoss()
model = Net()
for x, y in loader:
    loss = criterion(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
""",
    """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self, sizes, sigmoid=False):
        super().__init__()
        layers = [nn.Linear(a, b) for a, b in zip(sizes, sizes[1:])]
        if sigmoid:
            layers = layers + [nn.Sigmoid()]
        self.layers = nn.Sequential(*layers)
    def forward(self, x):
        return self.layers(x)
criterion = nn.CrossEntropyLoss()
model = Net([4, 8, 3])
for x, y in loader:
    loss = criterion(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
""",
    "import torch.nn.functional as F\n" + CHECK.example_good + "\nloss.backward()",
    """
import torch
import torch.nn.functional as F
for x, y in loader:
    logits = model(x)
    probs = F.softmax(logits, dim=1)
    loss = F.cross_entropy(logits, y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    auc.update(probs, y)
""",
    """
import torch
import torch.nn.functional as F
teacher_probs = F.softmax(teacher(x) / 4, dim=1)
loss = F.cross_entropy(student(x) / 4, teacher_probs)
loss.backward()
""",
    """
import torch
from torch import nn
class Attention(nn.Module):
    def forward(self, x):
        w = torch.softmax(self.score(x), dim=1)
        return self.out((w * x).sum(1))
model = Attention()
loss = nn.CrossEntropyLoss()(model(x), y)
loss.backward()
""",
    """
import torch
import torch.nn.functional as F
loss = F.nll_loss(torch.log(F.softmax(model(x), dim=1)), y)
loss.backward()
""",
    """
import torch
import torch.nn.functional as F
loss = F.cross_entropy(F.log_softmax(model(x), dim=1), y) + F.binary_cross_entropy(torch.sigmoid(head(x)), z)
loss.backward()
""",
)
