"""Raw outputs where a loss expects log-probabilities or probabilities."""

from __future__ import annotations

import re
from collections.abc import Iterator

from stepwell.findings import Check, Finding
from stepwell.lint.analysis import Script, Tensor, Thing
from stepwell.lint.analysis.flow import layer

CHECK = Check(
    code="SW409",
    name="logits-into-nll-or-bce",
    severity="error",
    certainty="certain",
    looks_for="the output of a linear layer or a convolution reaches NLLLoss or BCELoss as it is",
    why="NLLLoss expects log-probabilities: with raw outputs it falls without bound and nothing is learned; BCELoss "
    "expects probabilities and fails, or gives NaN, outside of 0 to 1",
    instead="use CrossEntropyLoss (BCEWithLogitsLoss), or end the model with log_softmax (sigmoid)",
    silent_when="not all of the forward of the model is seen",
    example_bad="model = nn.Linear(4, 3)\nloss = F.nll_loss(model(x), y)",
    example_good="model = nn.Linear(4, 3)\nloss = F.nll_loss(F.log_softmax(model(x), dim=1), y)",
    reference="https://docs.pytorch.org/docs/stable/generated/torch.nn.NLLLoss.html",
)
FIX = ""
_LOSSES = ("NLLLoss", "nll_loss", "BCELoss", "binary_cross_entropy", "NLLLoss2d")
_RAW = ("Linear", "Conv1d", "Conv2d", "Conv3d", "LazyLinear", "Bilinear", "ConvTranspose2d")

# classifiers that end with a linear layer
_ZOO = re.compile(r"timm\.(models\.)?create_model$|torchvision\.models\.(resnet|resnext|wide_resnet|vgg|densenet|"
                  r"mobilenet|efficientnet|convnext|vit_|swin|alexnet|shufflenet|regnet|mnasnet)\w*$")  # fmt: skip


def find(script: Script) -> Iterator[Finding]:
    for event, last in script.for_every_caller("loss", lambda event: _raw(event.target, event.extra.get("given"))):
        assert event.target is not None
        name, kind = event.target.cls.rsplit(".", 1)[-1], last.cls.rsplit(".", 1)[-1]
        kind = f"{kind} layer" if kind in _RAW else f"classifier of {last.cls.split('.')[0]}"
        expects = "log-probabilities" if "nll" in name.lower() else "probabilities"
        yield script.finding(
            CHECK,
            event.node,
            f"{name} is given the raw output of a {kind}, and expects {expects}",
            [(last.made, "the last layer")] if last.made is not None else (),
        )


def _raw(loss: Thing | None, given: object) -> Thing | None:
    """The layer whose raw output a loss is given."""
    if loss is None or not loss.cls.startswith("torch.nn.") or loss.cls.rsplit(".", 1)[-1] not in _LOSSES:
        return None
    last = layer(given) if isinstance(given, Tensor) else None
    if last is None and isinstance(given, Tensor) and given.by == "model" and given.models:
        zoo = given.models[0]
        if _ZOO.match(zoo.cls) and not zoo.attributes and zoo.local is None:
            return zoo
    return last if last is not None and last.cls.rsplit(".", 1)[-1] in _RAW else None


BAD = (
    "from torch import nn\nimport torch.nn.functional as F\n" + CHECK.example_bad + "  # expect\nloss.backward()",
    """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 3)
    def forward(self, x):
        return self.b(torch.relu(self.a(x)))
model = Net()
criterion = nn.NLLLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for x, y in loader:
    optimizer.zero_grad()
    loss = criterion(model(x), y)  # expect
    loss.backward()
    optimizer.step()
""",
    """
import torch
net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1))
loss_fn = torch.nn.BCELoss()
def train(model, loader, opt):
    for x, y in loader:
        opt.zero_grad()
        loss = loss_fn(model(x).squeeze(), y)  # expect
        loss.backward()
        opt.step()
train(net, loader, torch.optim.Adam(net.parameters()))
""",
    """
import torch
import torch.nn.functional as F
from lightning import LightningModule
class Model(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)
    def forward(self, x):
        return self.layer(x.view(x.size(0), -1))
    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.nll_loss(self(x), y)  # expect
    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())
""",
    """
import torch
D = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 4), torch.nn.LeakyReLU(), torch.nn.Conv2d(8, 1, 4))
criterion = torch.nn.BCELoss()
for real in loader:
    D.zero_grad()
    err = criterion(D(real).view(-1), ones)  # expect
    err.backward()
    optimizer.step()
""",
    """
import torch
import torchvision
net = torchvision.models.resnet18()
loss = torch.nn.NLLLoss()(net(x), y)  # expect
loss.backward()
""",
)
GOOD = (
    "from torch import nn\nimport torch.nn.functional as F\n" + CHECK.example_good + "\nloss.backward()",
    """
import torch
net = torch.nn.Sequential(torch.nn.Linear(4, 1), torch.nn.Sigmoid())
loss = torch.nn.BCELoss()(net(x), y)
loss.backward()
""",
    """
import torch
import networks
net = networks.resnet18()
loss = torch.nn.NLLLoss()(net(x), y)
loss.backward()
""",
    """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a = torch.nn.Linear(4, 3)
    def forward(self, x):
        x = self.a(x)
        if self.training:
            return torch.log_softmax(x, dim=1)
        return x
loss = torch.nn.NLLLoss()(Net()(x), y)
loss.backward()
""",
    """
import torch
class Net(torch.nn.Module):
    def __init__(self, last):
        super().__init__()
        self.a, self.last = torch.nn.Linear(4, 3), last
    def forward(self, x):
        return self.last(self.a(x))
loss = torch.nn.BCELoss()(Net(torch.nn.Sigmoid())(x), y)
loss.backward()
""",
)
