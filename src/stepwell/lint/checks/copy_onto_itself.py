"""A target network that takes its weights from itself."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from stepwell.findings import Check, Finding
from stepwell.lint.analysis import Script
from stepwell.lint.analysis.syntax import written

CHECK = Check(
    code="SW507",
    name="copy-onto-itself",
    severity="error",
    certainty="certain",
    looks_for="a target network or another copy loads its own state_dict(), or is a second name of the network that it "
    "should copy",
    why="the copy never gets new weights; a second name changes with every update, so that there is no copy",
    instead="load the state_dict() of the network that learns, into another network (copy.deepcopy)",
    silent_when="the two networks are different objects",
    example_bad="target_net.load_state_dict(target_net.state_dict())",
    example_good="target_net.load_state_dict(policy_net.state_dict())",
    reference="https://docs.pytorch.org/tutorials/intermediate/reinforcement_q_learning.html",
)
FIX = ""
_COPY = re.compile(
    r"target|tgt|targ(_|$)|(^|_)old|teacher|(^|_)ema(_|$)|frozen|delayed|slow|momentum|shadow|q_?next", re.I
)


def find(script: Script) -> Iterator[Finding]:
    for node in script.each(ast.Call):
        pair = _pair(node)
        if pair is None:
            continue
        copy, source = pair
        name = written(copy)
        if not _COPY.search(name.rsplit(".", 1)[-1]):
            continue
        if name == written(source):
            yield script.finding(CHECK, node, f"{name} loads its own state_dict(), which changes nothing")
            continue
        alias = _alias(script, copy, source)
        if alias is not None:
            yield script.finding(
                CHECK,
                node,
                f"{name} and {written(source)} are one network: loading changes nothing",
                [(alias, "this makes a second name, and no copy")],
            )


def _pair(node: ast.Call) -> tuple[ast.expr, ast.expr] | None:
    """(copy, source) of `copy.load_state_dict(source.state_dict())`."""
    if not (isinstance(node.func, ast.Attribute) and node.args):
        return None
    given = node.args[0]
    if node.func.attr != "load_state_dict" or not isinstance(given, ast.Call) or given.args or given.keywords:
        return None
    if not isinstance(given.func, ast.Attribute) or given.func.attr != "state_dict":
        return None
    return node.func.value, given.func.value


def _alias(script: Script, copy: ast.expr, source: ast.expr) -> ast.AST | None:
    """The assignment that makes the copy a second name of the source."""
    wanted = written(copy), written(source)
    made = [node for node in script.each(ast.Assign) if any(written(one) == wanted[0] for one in node.targets)]
    same = [one for one in made if written(one.value) == wanted[1]]
    return same[0] if same and same[-1] is made[-1] else None


BAD = (
    CHECK.example_bad + "  # expect",
    """
class Policy:
    def learn(self, step):
        if step % 200 == 0:
            self.target_drqn_net.load_state_dict(self.eval_drqn_net.state_dict())
            self.target_qmix_net.load_state_dict(self.target_qmix_net.state_dict())  # expect
""",
    """
class Agent:
    def __init__(self, net):
        self.q_net = net
        self.q_target = self.q_net
    def update(self):
        self.q_target.load_state_dict(self.q_net.state_dict())  # expect
""",
    """
policy_net = DQN()
target_net = policy_net
target_net.load_state_dict(policy_net.state_dict())  # expect
""",
    """
class Agent:
    def update_target(self):
        self.target_nn.load_state_dict(self.moving_nn.state_dict())  # expect
        self.target_nn = self.moving_nn
""",
)
GOOD = (
    CHECK.example_good,
    """
target_net = copy.deepcopy(policy_net)
target_net.load_state_dict(policy_net.state_dict())
""",
    """
model = build()
model.load_state_dict(model.state_dict())
""",
    """
state = target.state_dict()
state.update(weights)
target.load_state_dict(state)
""",
    """
class Agent:
    def __init__(self):
        self.net = Net()
        self.target = self.net
        self.target = Net()
        self.target.load_state_dict(self.net.state_dict())
""",
    """
target[0].load_state_dict(net[0].state_dict())
old_actor.load_state_dict(actor.state_dict())
""",
)
