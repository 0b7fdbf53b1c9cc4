"""A target network that is trained by gradients, too."""

from __future__ import annotations

import re
from collections.abc import Iterator

from stepwell.findings import Check, Finding
from stepwell.lint.analysis import Script
from stepwell.lint.analysis.copies import copied

CHECK = Check(
    code="SW504",
    name="target-network-in-optimizer",
    severity="error",
    certainty="certain",
    looks_for="a network that copies the weights of another one (a target network, a teacher that is an average) is "
    "among the parameters of the optimizer",
    why="a target should follow its network slowly; in the optimizer it is pulled by gradients or by weight decay as "
    "well, and learning chases itself",
    instead="give the optimizer the parameters of the online network only",
    silent_when="the copy is made once to be trained on (fine-tuning), or its parameters are frozen",
    example_bad="target.load_state_dict(net.state_dict())\noptimizer = Adam([*net.parameters(), *target.parameters()])",
    example_good="target.load_state_dict(net.state_dict())\noptimizer = Adam(net.parameters())",
    reference="https://docs.pytorch.org/tutorials/intermediate/reinforcement_q_learning.html",
)
FIX = ""
_TARGET = re.compile(r"(^|[._])(target|tgt|targ|ema|teacher|momentum)|(target|ema|teacher)($|[._])", re.I)


def find(script: Script) -> Iterator[Finding]:
    seen: set[int] = set()
    for places in script.places("make"):
        optimizer = places[0].target
        if optimizer is None or optimizer.kind != "optimizer" or optimizer.cls == "" or id(optimizer) in seen:
            continue
        seen.add(id(optimizer))
        for model in optimizer.of:
            source = copied(script, model) if len(optimizer.of) > 1 and _TARGET.search(model.name) else None
            if source is None or any(event.kind == "freeze" and event.is_on(model) for event in script.events):
                continue
            yield script.finding(
                CHECK,
                places[0].node,
                f"{model.name} follows another network, and {optimizer.name or 'the optimizer'} updates it as well",
                [(source[0].node, f"{model.name} takes the weights of {source[1].name} here")],
            )


_HEAD = (
    "import torch\nfrom torch import nn\nfrom torch.optim import Adam\nnet, target = nn.Linear(4, 2), nn.Linear(4, 2)\n"
)
BAD = (
    _HEAD + CHECK.example_bad.replace("()])", "()])  # expect"),
    """
import torch, copy
from torch import nn
q_net = nn.Linear(4, 2)
target_q_net = copy.deepcopy(q_net)
optimizer = torch.optim.Adam(list(q_net.parameters()) + list(target_q_net.parameters()), lr=1e-3)  # expect
""",
    """
import torch
class Agent:
    def __init__(self):
        self.policy_net = torch.nn.Linear(4, 2)
        self.target_net = torch.nn.Linear(4, 2)
        self.target_net.load_state_dict(self.policy_net.state_dict())
        params = list(self.policy_net.parameters()) + list(self.target_net.parameters())
        self.optimizer = torch.optim.AdamW(params, lr=1e-4)  # expect
""",
    """
import torch, itertools
from torch import nn
actor, critic, target_critic = nn.Linear(4, 2), nn.Linear(4, 1), nn.Linear(4, 1)
target_critic.load_state_dict(critic.state_dict())
both = itertools.chain(actor.parameters(), target_critic.parameters())
optimizer = torch.optim.Adam(both)  # expect
""",
    """
import torch, copy
student = torch.nn.Linear(4, 2)
teacher = copy.deepcopy(student)
optimizer = torch.optim.SGD([{"params": student.parameters()}, {"params": teacher.parameters()}], lr=0.1)  # expect
""",
)
GOOD = (
    _HEAD + CHECK.example_good,
    """
import torch, copy
q_net = torch.nn.Linear(4, 2)
target_net = copy.deepcopy(q_net)
optimizer = torch.optim.Adam(q_net.parameters())
""",
    """
import torch
source_net, target_net = torch.nn.Linear(4, 2), torch.nn.Linear(4, 2)
optimizer = torch.optim.Adam([*source_net.parameters(), *target_net.parameters()])
""",
    """
import torch, copy
teacher = copy.deepcopy(student)
optimizer = torch.optim.Adam(teacher.parameters())
""",
    """
import torch, copy
q_net = torch.nn.Linear(4, 2)
target_net = copy.deepcopy(q_net)
target_net.requires_grad_(False)
optimizer = torch.optim.Adam([*q_net.parameters(), *target_net.parameters()])
""",
)
