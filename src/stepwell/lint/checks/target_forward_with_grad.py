"""A target network whose forward pass is differentiated, and whose gradients nobody uses."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from stepwell.findings import Check, Finding
from stepwell.lint.analysis import Event, Script, Tensor, Thing
from stepwell.lint.analysis.copies import copied, is_averaged
from stepwell.lint.analysis.flow import graph
from stepwell.lint.analysis.relations import updates
from stepwell.lint.analysis.syntax import written

CHECK = Check(
    code="SW506",
    name="target-forward-with-grad",
    severity="warning",
    certainty="certain",
    looks_for="the loss of a network depends, with its graph, on a copy of this network (a target network, a teacher "
    "that is an average) which no optimizer updates, or on a target of temporal differences that the network computes",
    why="backward() goes through the copy as well and fills gradients that nobody uses or clears: more time and "
    "memory in every step, and a wrong update as soon as anybody hands the copy to an optimizer",
    instead="compute the target under torch.no_grad(), or detach it",
    silent_when="the copy is frozen, an optimizer updates it, it is the only network in the loss, or the script uses "
    "its gradients itself",
    example_bad="target = copy.deepcopy(net)\noptimizer = Adam(net.parameters())\nfor s, r, s2 in batches:\n"
    "    goal = r + 0.99 * target(s2).max(1).values\n    loss = F.mse_loss(net(s).max(1).values, goal)\n"
    "    optimizer.zero_grad()\n    loss.backward()\n    optimizer.step()",
    example_good="target = copy.deepcopy(net)\noptimizer = Adam(net.parameters())\nfor s, r, s2 in batches:\n"
    "    with torch.no_grad():\n        goal = r + 0.99 * target(s2).max(1).values\n"
    "    loss = F.mse_loss(net(s).max(1).values, goal)\n"
    "    optimizer.zero_grad()\n    loss.backward()\n    optimizer.step()",
    reference="https://docs.pytorch.org/tutorials/intermediate/reinforcement_q_learning.html",
)
FIX = ""
_TARGET = re.compile(r"(^|[._])(target|tgt|targ|teacher|ema|momentum)|(target|ema|teacher)($|[._])", re.I)
_LIKELY = ("load_state_dict", "deepcopy", "zip(", "gamma", "discount")
_GAMMA = re.compile(r"\b(self\.|args\.|cfg\.|\w+\.)*(gamma|discount(_?factor|_?rate)?)\b", re.I)
_GRAD = re.compile(r"\.grad\b")
_META = re.compile(r"create_graph|functional_call|fast_weights|inner_loop|\bmaml\b|higher\.", re.I)


def find(script: Script) -> Iterator[Finding]:
    if not script.of_kind("backward", "loss") or not any(word in script.lowered for word in _LIKELY):
        return
    if "requires_grad" in script.source and re.search(r"requires_grad_?\s*(=\s*|\()\s*False", script.source):
        return  # something is frozen: which of the networks is not always to be seen
    if _GRAD.search(script.source.replace("torch.autograd.grad", "")) or _META.search(script.source):
        return
    for event, given in _bootstraps(script):
        yield script.finding(
            CHECK,
            given,
            "the target of the loss is computed by the network that learns, with its graph",
            [(event.node, "the gradient of this loss moves the target as well")],
        )
    told: set[int] = set()
    for places in script.places("backward"):
        found = [_target(script, event) for event in places]
        first = found[0]
        if first is None or any(one is None for one in found):
            continue
        forward, model, other = first
        call = _call_in(forward, places[0])
        if id(call) in told:
            continue
        told.add(id(call))
        yield script.finding(
            CHECK,
            call,
            f"{model.name} copies {other.name}, and the backward pass of line {places[0].line} goes through "
            f"{model.name} too: its output is not detached",
            [(places[0].node, f"this fills gradients of {model.name} that no optimizer uses")],
        )


def _target(script: Script, back: Event) -> tuple[Event, Thing, Thing] | None:
    """(forward pass, copy, original) in the graph of a loss."""
    if not isinstance(back.value, Tensor):
        return None
    forwards = {id(event.node): event for event in script.of_kind("forward")}
    made = [
        (forwards[id(one.node)], one.models[0])
        for one in graph(back.value)
        if one.models and one.attached is True and id(one.node) in forwards
    ]
    for copy, original in _copies(script):
        forward = next((event for event, model in made if _is_of(model, copy)), None)
        if forward is None or forward.no_grad is not False or _is_updated(script, copy):
            continue
        if any(_is_of(model, original) and not _is_of(model, copy) for _, model in made):
            return forward, copy, original
    return None


def _bootstraps(script: Script) -> Iterator[tuple[Event, ast.AST]]:
    """(loss, target) where a network learns toward a target that it computes itself, with its graph: the gamma in
    the target says that it is a value of the next state."""
    for places in script.places("loss"):
        event = places[0]
        if event.call is None or len(event.call.args) < 2 or not isinstance(event.value, Tensor):
            continue
        sides = [(one, script.resolved(one)) for one in event.call.args[:2]]
        for index, (given, assigned) in enumerate(sides):
            if assigned is None or not _GAMMA.search(written(assigned)):
                continue
            other = sides[1 - index][1]
            if (
                other is not None
                and not _GAMMA.search(written(other))
                and all(_is_bootstrap(one, assigned) for one in places)
            ):
                yield event, given
                break


def _is_bootstrap(event: Event, assigned: ast.expr) -> bool:
    """Whether both sides of a loss come from one network, with graphs."""
    if not isinstance(event.value, Tensor) or event.no_grad is not False:
        return False
    target = next((one for one in event.value.history() if one.node is assigned), None)
    others = [one for one in event.value.parts if target is not None and one is not target]
    if target is None or target.attached is not True or not others:
        return False
    return any(one in other.models for one in target.models if one.kind == "model" for other in others)


def _call_in(forward: Event, back: Event) -> ast.AST:
    """The call by which the function of the backward pass comes to a forward pass."""
    inner = forward.frames[len(back.frames) :] if forward.frames[: len(back.frames)] == back.frames else ()
    return inner[0] if inner else forward.node


def _is_of(model: Thing, whole: Thing) -> bool:
    return model.is_same(whole) or model.is_inside(whole)


def _copies(script: Script) -> Iterator[tuple[Thing, Thing]]:
    """(copy, original) for the networks of a script."""
    models = list(
        dict.fromkeys(
            event.target
            for event in script.of_kind("make", "load_state", "forward")
            if event.target is not None and event.target.kind == "model"
        )
    )
    for model in models:
        source = copied(script, model)
        if source is not None:
            yield model, source[1]
        elif _TARGET.search(model.name) and is_averaged(script, model):
            yield from ((model, other) for other in models if not _TARGET.search(other.name))


def _is_updated(script: Script, model: Thing) -> bool:
    """Whether an optimizer that makes steps has, or may have, this network."""
    steps = [event.target for event in script.of_kind("step") if event.target is not None]
    known = [updates(one, model) for one in steps if one.kind == "optimizer"]
    frozen = any(event.is_on(model) for event in script.of_kind("freeze"))
    return frozen or not any(one is False for one in known) or any(known)


_HEAD = """
import copy
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import Adam
net = nn.Linear(4, 2)
"""
BAD = (
    """
import torch
class Agent:
    def __init__(self):
        self.Q = torch.nn.Linear(8, 4)
        self.optimizer = torch.optim.Adam(self.Q.parameters())
        self.loss = torch.nn.MSELoss()
    def learn(self, states, rewards, new_states, actions, index):
        self.optimizer.zero_grad()
        q_eval = self.Q(states)[index, actions]
        q_next = self.Q(new_states)
        q_target = rewards + self.gamma * torch.max(q_next, dim=1)[0]
        loss = self.loss(q_target, q_eval)  # expect
        loss.backward()
        self.optimizer.step()
""",
    _HEAD + CHECK.example_bad.replace("max(1).values\n    loss", "max(1).values  # expect\n    loss"),
    """
import torch
import torch.nn as nn
class Agent:
    def __init__(self):
        self.q_eval, self.q_next = nn.Linear(4, 2), nn.Linear(4, 2)
        self.optimizer = torch.optim.Adam(self.q_eval.parameters())
        self.loss = nn.MSELoss()
    def replace_target_network(self):
        self.q_next.load_state_dict(self.q_eval.state_dict())
    def learn(self, states, actions, rewards, states_):
        self.optimizer.zero_grad()
        q_pred = self.q_eval.forward(states)[actions]
        q_next = self.q_next.forward(states_).max(dim=1)[0]  # expect
        loss = self.loss(q_pred, rewards + 0.99 * q_next)
        loss.backward()
        self.optimizer.step()
""",
    """
import torch
from torch import nn
policy_net, target_net = nn.Linear(4, 2), nn.Linear(4, 2)
target_net.load_state_dict(policy_net.state_dict())
optimizer = torch.optim.AdamW(policy_net.parameters(), lr=1e-4)
def optimize(batch):
    values = policy_net(batch.state).gather(1, batch.action)
    following = torch.max(target_net(batch.next_state), dim=-1, keepdim=True)[0]  # expect
    loss = nn.functional.smooth_l1_loss(values, batch.reward + 0.99 * following)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
for batch in replay:
    optimize(batch)
""",
    """
import torch
from torch import nn
critic, critic_target = nn.Linear(4, 1), nn.Linear(4, 1)
optimizer = torch.optim.Adam(critic.parameters())
for s, r, s2 in loader:
    goal = r + 0.99 * critic_target(s2)  # expect
    loss = (critic(s) - goal).pow(2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    for p, tp in zip(critic.parameters(), critic_target.parameters()):
        tp.data.copy_(0.005 * p.data + 0.995 * tp.data)
""",
    """
import copy, torch
from torch import nn
student = nn.Linear(4, 4)
teacher = copy.deepcopy(student)
optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
for x in loader:
    loss = (student(x) - teacher(x)).pow(2).mean()  # expect
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
""",
)
GOOD = (
    _HEAD + CHECK.example_good,
    _HEAD
    + """
target = copy.deepcopy(net)
optimizer = Adam(net.parameters())
for s, r, s2 in loader:
    goal = r + 0.99 * target(s2).max(1).values.detach()
    loss = F.mse_loss(net(s).max(1).values, goal)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
""",
    _HEAD
    + """
target = copy.deepcopy(net)
for p in target.parameters():
    p.requires_grad = False
optimizer = Adam(net.parameters())
for s, r, s2 in loader:
    loss = F.mse_loss(net(s), r + target(s2))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
""",
    _HEAD
    + """
best = copy.deepcopy(net)
optimizer = Adam(best.parameters())
for x, y in loader:
    loss = F.mse_loss(best(net(x)), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
""",
    _HEAD
    + """
learner = copy.deepcopy(net)
optimizer = Adam(net.parameters())
for x, y in loader:
    loss = F.mse_loss(learner(x), y)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
""",
    _HEAD
    + """
G, D = nn.Linear(4, 4), nn.Linear(4, 1)
opt_g, opt_d = Adam(G.parameters()), Adam(D.parameters())
for real, z in loader:
    loss = -D(G(z)).mean()
    opt_g.zero_grad()
    loss.backward()
    opt_g.step()
""",
)
