"""SGD and Adam at one learning rate."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from stepwell.findings import Check, Finding
from stepwell.lint.analysis import Script, settings
from stepwell.lint.analysis.syntax import written

CHECK = Check(
    code="SW904",
    name="same-lr-across-families",
    severity="note",
    certainty="advice",
    looks_for="an SGD and an Adam-type optimizer of the same model are given the same learning rate",
    why="their published ranges differ 10 to 100 times: a comparison at one rate measures the rate, not the optimizer",
    instead="tune the learning rate of each",
    silent_when="the rates differ, or the models do. Limits: a rate from the command line may be set per "
    "optimizer by its callers",
    example_bad="if name == 'sgd':\n    optimizer = SGD(model.parameters(), lr=lr)\nelse:\n    optimizer = "
    "Adam(model.parameters(), lr=lr)",
    example_good="if name == 'sgd':\n    optimizer = SGD(model.parameters(), lr=0.1)\nelse:\n    optimizer = "
    "Adam(model.parameters(), lr=1e-3)",
    reference="https://arxiv.org/abs/1910.05446",
)
FIX = ""


def find(script: Script) -> Iterator[Finding]:
    plain: list[tuple[str, ast.AST, ast.AST]] = []
    made = list(settings.optimizers(script))
    for event, optimizer, name in made:
        if name == "SGD" and (rate := optimizer.argument(1, "lr")) is not None:
            plain += [(written(rate), event.node, one) for one in (optimizer.made,) if one is not None]
    for event, optimizer, name in made:
        rate = optimizer.argument(1, "lr")
        if "Adam" not in name or rate is None or optimizer.made is None or not optimizer.made.args:
            continue
        for text, node, call in plain:
            same = (
                isinstance(call, ast.Call)
                and bool(call.args)
                and written(call.args[0]) == written(optimizer.made.args[0])
            )
            if text == written(rate) and same:
                yield script.finding(
                    CHECK, event.node, f"{name} has the learning rate of SGD, {text}", [(node, "SGD has it here")]
                )
                break


BAD = (
    """
import torch
if name == 'sgd':
    o = torch.optim.SGD(model.parameters(), lr=lr)
else:
    o = torch.optim.Adam(model.parameters(), lr=lr)  # expect
""",
    """
import torch
def make(model, args):
    if args.opt == 'adamw':
        return torch.optim.AdamW(model.parameters(), lr=args.lr)  # expect
    return torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9)
""",
    """
import torch
a = torch.optim.SGD(net.parameters(), lr=0.01)
b = torch.optim.Adam(net.parameters(), lr=0.01)  # expect
""",
    """
from torch.optim import SGD, RAdam
options = [SGD(net.parameters(), lr=0.01), RAdam(net.parameters(), lr=0.01)]  # expect
""",
    """
from torch import optim
opts = {'sgd': optim.SGD(model.parameters(), lr=LR),
        'adam': optim.Adam(model.parameters(), lr=LR)}  # expect
""",
)
GOOD = (
    """
import torch
a = torch.optim.SGD(net.parameters(), lr=0.1)
b = torch.optim.Adam(net.parameters(), lr=0.001)
""",
    """
import torch
a = torch.optim.SGD(net.parameters(), lr=0.1)
b = torch.optim.Adam(head.parameters(), lr=0.1)
""",
    """
import torch
b = torch.optim.Adam(net.parameters(), lr=0.1)
""",
    """
import torch
a = torch.optim.Adam(net.parameters(), lr=0.1)
b = torch.optim.AdamW(net.parameters(), lr=0.1)
""",
    """
import torch
a = torch.optim.SGD(net.parameters(), lr=args.sgd_lr)
b = torch.optim.Adam(net.parameters(), lr=args.lr)
""",
)
