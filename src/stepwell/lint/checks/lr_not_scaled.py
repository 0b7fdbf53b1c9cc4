"""A learning rate that ignores how large the batch is."""

from __future__ import annotations

from collections.abc import Iterator

from stepwell.findings import Check, Finding
from stepwell.lint.analysis import Script, settings

CHECK = Check(
    code="SW907",
    name="lr-not-scaled",
    severity="note",
    certainty="advice",
    looks_for="several processes or accumulation make the batch larger, and the learning rate is a bare number",
    why="a rate that was tuned for one process is too low for a batch that is N times as large",
    instead="scale the rate: linearly with the batch for SGD with momentum, with its square root for Adam-type "
    "optimizers, and warm up",
    silent_when="the rate is no bare number. Limits: the number may have been tuned for this batch",
    example_bad="model = DistributedDataParallel(model)\noptimizer = torch.optim.SGD(model.parameters(), lr=0.1)",
    example_good="model = DistributedDataParallel(model)\noptimizer = torch.optim.SGD(model.parameters(), lr=0.1 "
    "* world_size)",
    reference="https://arxiv.org/abs/1706.02677",
)
FIX = ""
_LARGER = ("DistributedDataParallel", "FullyShardedDataParallel", "DistributedSampler")


def find(script: Script) -> Iterator[Finding]:
    larger = next((node for node, name in script.calls if name.rsplit(".", 1)[-1] in _LARGER), None)
    if larger is None or ("accumul" in script.source and "lr *" in script.source):
        return
    for event, optimizer, name in settings.optimizers(script):
        rate = settings.number(optimizer, 1, "lr")
        if rate is None or name in ("LBFGS", "Prodigy", "Adafactor"):
            continue
        rule = "linearly" if name == "SGD" else "with the square root"
        yield script.finding(
            CHECK, event.node,
            f"lr={rate:g} of {name} is the same for any number of processes; usual is to scale it {rule}",
            [(larger, "the batch grows with the number of processes")],
        )  # fmt: skip


BAD = (
    """
import torch
from torch.nn.parallel import DistributedDataParallel as DDP
model = DDP(model)
o = torch.optim.SGD(model.parameters(), lr=0.1)  # expect
""",
    """
import torch
model = torch.nn.parallel.DistributedDataParallel(net)
o = torch.optim.AdamW(model.parameters(), lr=1e-3)  # expect
""",
    """
import torch
sampler = torch.utils.data.distributed.DistributedSampler(data)
o = torch.optim.Adam(model.parameters(), lr=1e-3)  # expect
""",
    """
import torch
from torch.distributed.fsdp import FullyShardedDataParallel
model = FullyShardedDataParallel(net)
o = torch.optim.AdamW(model.parameters(), 3e-4)  # expect
""",
    """
import torch
class T:
    def __init__(self, net):
        self.model = torch.nn.parallel.DistributedDataParallel(net)
        self.opt = torch.optim.SGD(self.model.parameters(), lr=0.1)  # expect
""",
)
GOOD = (
    """
import torch
model = torch.nn.parallel.DistributedDataParallel(net)
o = torch.optim.SGD(model.parameters(), lr=0.1 * world_size)
""",
    """
import torch
model = torch.nn.Linear(2, 2)
o = torch.optim.SGD(model.parameters(), lr=0.1)
""",
    """
import torch
model = torch.nn.parallel.DistributedDataParallel(net)
o = torch.optim.SGD(model.parameters(), lr=args.lr)
""",
    """
import torch
model = torch.nn.DataParallel(net)
o = torch.optim.SGD(model.parameters(), lr=0.1)
""",
    """
import torch
model = torch.nn.parallel.DistributedDataParallel(net)
o = torch.optim.LBFGS(model.parameters(), lr=1)
""",
)
