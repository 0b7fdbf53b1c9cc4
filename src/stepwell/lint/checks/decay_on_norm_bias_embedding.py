"""Weight decay on norms, biases and embeddings."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from stepwell.findings import Check, Finding
from stepwell.lint.analysis import Script, settings
from stepwell.lint.analysis.syntax import written

CHECK = Check(
    code="SW906",
    name="decay-on-norm-bias-embedding",
    severity="note",
    certainty="advice",
    looks_for="AdamW with weight decay over all parameters of a model in one group, where the file shows norm or "
    "embedding layers",
    why="decay pulls scales of norms and biases to 0, which regularizes nothing; published recipes exempt them",
    instead="give 1-D parameters their own group with weight_decay 0: [{'params': [p for p in model.parameters() if "
    "p.ndim > 1]}, {'params': [p for p in model.parameters() if p.ndim < 2], 'weight_decay': 0.0}]",
    silent_when="there are several groups, or weight_decay is 0. Limits: the gain is small, and some recipes "
    "(nanoGPT's embeddings) decay what others exempt",
    example_bad="norm = nn.LayerNorm(64)\noptimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.1)",
    example_good="norm = nn.LayerNorm(64)\noptimizer = torch.optim.AdamW(groups, weight_decay=0.1)",
    reference="https://arxiv.org/abs/1812.01187",
)
FIX = ""


def find(script: Script) -> Iterator[Finding]:
    for event, optimizer, name in settings.optimizers(script):
        if name != "AdamW" or settings.has_hidden(optimizer) or not optimizer.of or not optimizer.whole:
            continue
        first = optimizer.argument(0, "params")
        decay = optimizer.argument(4, "weight_decay")
        if (
            not isinstance(first, ast.Call)
            or not written(first).endswith(".parameters()")
            or written(decay or ast.Constant(1)) in ("0", "0.0")
        ):
            continue
        layer = settings.layer(
            script, r"(Layer|Batch|Group|RMS|Instance)Norm\w*|Embedding|TransformerEncoderLayer|Transformer"
        )
        if layer is None:
            return
        yield script.finding(
            CHECK,
            event.node,
            f"AdamW decays all of {script.text(first)} alike",
            [(layer, "this layer is usually exempt")],
        )


BAD = (
    """
import torch
from torch import nn
model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
o = torch.optim.AdamW(model.parameters(), weight_decay=0.1)  # expect
""",
    """
import torch
from torch import nn
model = nn.Sequential(nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2))
o = torch.optim.AdamW(model.parameters(), lr=1e-3)  # expect
""",
    """
import torch
model = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(64, 4), 2)
o = torch.optim.AdamW(model.parameters(), weight_decay=0.01)  # expect
""",
    """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(9, 4)
net = Net()
o = torch.optim.AdamW(net.parameters(), lr=1e-3)  # expect
""",
    """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.GroupNorm(2, 4)
    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)  # expect
""",
)
GOOD = (
    """
import torch
model = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(64, 4), 2)
o = torch.optim.AdamW(groups, weight_decay=0.01)
""",
    """
import torch
model = torch.nn.Linear(2, 2)
o = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
""",
    """
import torch
model = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(64, 4), 2)
o = torch.optim.AdamW(model.parameters(), weight_decay=0.0)
""",
    """
import torch
model = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(64, 4), 2)
o = torch.optim.SGD(model.parameters(), lr=0.1)
""",
    """
import torch
model = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(64, 4), 2)
o = torch.optim.AdamW([{'params': model.layers.parameters()}, {'params': model.norm.parameters(), 'weight_decay': 0.0}])
""",
)
