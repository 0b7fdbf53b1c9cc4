"""An epsilon that is large enough to change what an Adam-type optimizer does."""

from __future__ import annotations

from collections.abc import Iterator

from stepwell.findings import Check, Finding
from stepwell.lint.analysis import Script, argument

CHECK = Check(
    code="SW605",
    name="unusual-epsilon",
    severity="warning",
    certainty="likely",
    looks_for="an Adam-type optimizer with eps >= 1e-3",
    why="gradients smaller than epsilon are no longer scaled: the optimizer turns into SGD with a tiny learning rate",
    instead="leave eps at 1e-8, or at 1e-6 to 1e-4 in half precision",
    silent_when="the optimizer is RMSprop, of which such values are published",
    example_bad="import torch\noptimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-2)",
    example_good="import torch\noptimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-8)",
    reference="https://arxiv.org/abs/1910.05446",
)
FIX = ""
_ADAM = frozenset(["Adam", "AdamW", "NAdam", "RAdam", "Adamax"])


def find(script: Script) -> Iterator[Finding]:
    seen: set[int] = set()
    for optimizer in script.made("optimizer"):
        call, name = optimizer.made, optimizer.cls.rsplit(".", 1)[-1]
        if call is None or optimizer.local is not None or name not in _ADAM or id(call) in seen:
            continue
        seen.add(id(call))
        eps = argument(call, 3, "eps")
        value = script.literal(eps)
        if eps is not None and isinstance(value, (int, float)) and value >= 1e-3:
            yield script.finding(CHECK, eps, f"{name} is given eps={value:g}")


_HEAD = "\nimport torch\nfrom torch import optim\n"
BAD = (
    CHECK.example_bad + "  # expect",
    _HEAD + "EPS = 0.1\noptimizer = optim.AdamW(model.parameters(), 1e-3, (0.9, 0.999), EPS)  # expect\n",
    _HEAD + "def build(net):\n    return optim.NAdam(net.parameters(), eps=1)  # expect\n",
    _HEAD
    + "class T:\n    def __init__(self, m):\n        self.opt = optim.RAdam(m.parameters(), eps=1e-3)  # expect\n",
    "import torch.optim as O\nopt = O.Adam(net.parameters(), lr=1e-4, betas=(0.9, 0.99), eps=0.001)  # expect\n",
)
GOOD = (
    CHECK.example_good,
    _HEAD + "optimizer = optim.RMSprop(model.parameters(), lr=1e-3, eps=0.1)\n",
    _HEAD + "optimizer = optim.Adam(model.parameters(), lr=1e-3, eps=1e-4)\n",
    _HEAD + "optimizer = optim.Adam(model.parameters(), lr=1e-3, eps=args.eps)\n",
    "from transformers import Adafactor\noptimizer = Adafactor(model.parameters(), eps=(1e-30, 1e-3))\n",
)
