"""A learning rate that nobody has published for such an optimizer."""

from __future__ import annotations

from collections.abc import Iterator

from stepwell.findings import Check, Finding
from stepwell.lint.analysis import Script, settings

CHECK = Check(
    code="SW903",
    name="lr-far-from-usual",
    severity="note",
    certainty="advice",
    looks_for="the learning rate is more than 3 times above or below all that was published for this optimizer "
    "(and this kind of model)",
    why="what works elsewhere by a factor of 10 more or less seldom works here",
    instead="start from the published range, or run a range test",
    silent_when="the rate is no number in the source. Limits: linear probes (SGD 30), large-batch recipes, "
    "losses that are sums and not means leave the range for good reasons",
    example_bad="optimizer = torch.optim.AdamW(model.parameters(), lr=0.5)",
    example_good="optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)",
    reference="https://arxiv.org/abs/2306.07179",
)
FIX = ""
MARGIN = 3.0
# optimizer -> lowest and highest published rate, and where they are from
RANGES = {
    "SGD": (1e-4, 30.0, "FCN on Pascal VOC; MoCo v2 linear probe"),
    "Adam": (2e-5, 0.2, "PPO zoo HalfCheetah; SGC on Cora"),
    "Adam transformer": (6e-5, 2e-3, "GPT-3 175B; fairseq speech transformer"),
    "AdamW": (2.8e-7, 4e-3, "Stable Diffusion 2 MLPerf, per sample; ConvNeXt at batch 4096"),
    "AdamW transformer": (2.8e-7, 4e-3, "Stable Diffusion 2 MLPerf, per sample; MAE ViT-L fine-tuning"),
    "NAdamW": (8e-4, 3.4e-3, "AlgoPerf ViT; AlgoPerf DLRM"),
    "RMSprop": (5e-5, 0.256, "WGAN; EfficientNetV2"),
    "Lion": (2e-6, 1e-3, "Lion paper: 3 to 10 times below AdamW"),
    "LAMB": (3.5e-4, 8e-3, "BERT at batch 256; ResNet-50 RSB A3"),
    "SparseAdam": (1e-3, 0.1, "node2vec on Cora uses 0.01"),
    "Adafactor": (1e-4, 1e-2, "T5 fine-tuning uses 1e-3"),
}


def find(script: Script) -> Iterator[Finding]:
    transformer = settings.attention(script) if any(True for _ in settings.optimizers(script)) else None
    for event, optimizer, name in settings.optimizers(script):
        rate = settings.number(optimizer, 1, "lr")
        key = f"{name} transformer" if transformer is not None and f"{name} transformer" in RANGES else name
        if rate is None or rate <= 0 or key not in RANGES:
            continue
        low, high, source = RANGES[key]
        if low / MARGIN <= rate <= high * MARGIN:
            continue
        yield script.finding(
            CHECK,
            event.node,
            f"lr={rate:g} of {name} is far {'above' if rate > high else 'below'} the published range, {low:g} to "
            f"{high:g} ({source})",
            [(transformer, "attention is used here")] if transformer is not None and key != name else (),
        )


BAD = (
    """
import torch
model = torch.nn.Linear(2, 2)
o = torch.optim.AdamW(model.parameters(), lr=0.5)  # expect
""",
    """
import torch
model = torch.nn.Linear(2, 2)
o = torch.optim.Adam(model.parameters(), lr=1.0)  # expect
""",
    """
import torch
model = torch.nn.Linear(2, 2)
o = torch.optim.SGD(model.parameters(), lr=1e-7)  # expect
""",
    """
import torch
model = torch.nn.Transformer()
o = torch.optim.AdamW(model.parameters(), lr=0.03)  # expect
""",
    """
from lion_pytorch import Lion
o = Lion(model.parameters(), lr=0.01)  # expect
loss_fn(model(x), y).backward()
o.step()
""",
)
GOOD = (
    """
import torch
model = torch.nn.Linear(2, 2)
o = torch.optim.AdamW(model.parameters(), lr=1e-3)
""",
    """
import torch
model = torch.nn.Linear(2, 2)
o = torch.optim.SGD(model.parameters(), lr=0.1)
""",
    """
import torch
model = torch.nn.Linear(2, 2)
o = torch.optim.SGD(model.parameters(), lr=30)
""",
    """
import torch
model = torch.nn.Linear(2, 2)
o = torch.optim.Adam(model.parameters(), lr=args.lr)
""",
    """
import torch
model = torch.nn.Linear(2, 2)
o = torch.optim.LBFGS(model.parameters(), lr=1)
""",
)
