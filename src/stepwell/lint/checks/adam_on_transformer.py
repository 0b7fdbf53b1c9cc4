"""A transformer trained with Adam."""

from __future__ import annotations

from collections.abc import Iterator

from stepwell.findings import Check, Finding
from stepwell.lint.analysis import Script, settings

CHECK = Check(
    code="SW905",
    name="adam-on-transformer",
    severity="note",
    certainty="advice",
    looks_for="Adam is made in a file that makes attention layers",
    why="nearly all published transformers since 2019 use AdamW: weight decay matters for them, and Adam's is "
    "coupled to the gradient",
    instead="use AdamW with weight_decay 0.01 to 0.1",
    silent_when="no attention is seen in the file. Limits: translation models with weight decay 0 use Adam, "
    "which is then the same",
    example_bad="model = nn.TransformerEncoder(layer, 6)\noptimizer = torch.optim.Adam(model.parameters(), lr=1e-4)",
    example_good="model = nn.TransformerEncoder(layer, 6)\noptimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)",
    reference="https://arxiv.org/abs/1711.05101",
)
FIX = ""


def find(script: Script) -> Iterator[Finding]:
    for event, optimizer, name in settings.optimizers(script):
        if name != "Adam" or not optimizer.cls.startswith("torch.optim"):
            continue
        place = settings.attention(script)
        if place is None:
            return
        yield script.finding(
            CHECK, event.node, "Adam trains a model with attention", [(place, "attention is used here")]
        )


BAD = (
    """
import torch
model = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(64, 4), 2)
o = torch.optim.Adam(model.parameters(), lr=1e-4)  # expect
""",
    """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(64, 4)
o = torch.optim.Adam(Net().parameters())  # expect
""",
    """
import torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained('gpt2')
o = torch.optim.Adam(model.parameters(), lr=5e-5)  # expect
""",
    """
import torch.nn.functional as F
from torch.optim import Adam
def attend(q, k, v):
    return F.scaled_dot_product_attention(q, k, v)
o = Adam(model.parameters(), lr=1e-4)  # expect
""",
    """
import torch
from blocks import CausalSelfAttention
layer = CausalSelfAttention(64)
o = torch.optim.Adam(layer.parameters())  # expect
""",
)
GOOD = (
    """
import torch
model = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(64, 4), 2)
o = torch.optim.AdamW(model.parameters(), lr=1e-4)
""",
    """
import torch
model = torch.nn.Linear(2, 2)
o = torch.optim.Adam(model.parameters(), lr=1e-4)
""",
    """
import torch
model = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(64, 4), 2)
o = torch.optim.SGD(model.parameters(), lr=1e-1)
""",
    """
import torch
model = torch.nn.Linear(2, 2)
o = torch.optim.Adam(model.lstm.parameters())
""",
    """
import torch
model = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(64, 4), 2)
""",
)
