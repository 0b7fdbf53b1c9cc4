"""Clipping of the gradients of another network than the one that is stepped."""

from __future__ import annotations

from collections.abc import Iterator

from stepwell.findings import Check, Finding
from stepwell.lint.analysis import Event, Script, Thing
from stepwell.lint.analysis.order import around, may_go_back, may_step, ways_to
from stepwell.lint.analysis.relations import updates

CHECK = Check(
    code="SW303",
    name="clip-wrong-parameters",
    severity="error",
    certainty="certain",
    looks_for="between backward() and the step, the gradients of another model are clipped than the one that the "
    "optimizer updates",
    why="the step uses gradients that are not clipped, and the clipped ones are not used",
    instead="clip the parameters that the optimizer was made of",
    silent_when="an optimizer of the clipped model makes a step before the next backward pass, too, or it is not "
    "known what the optimizer updates",
    example_bad="G, D = Generator(), Discriminator()\nopt_g = torch.optim.Adam(G.parameters())\n"
    "opt_d = torch.optim.Adam(D.parameters())\n"
    "loss.backward()\ntorch.nn.utils.clip_grad_norm_(G.parameters(), 1.0)\nopt_d.step()",
    example_good="G, D = Generator(), Discriminator()\nopt_g = torch.optim.Adam(G.parameters())\n"
    "opt_d = torch.optim.Adam(D.parameters())\n"
    "loss.backward()\ntorch.nn.utils.clip_grad_norm_(D.parameters(), 1.0)\nopt_d.step()",
    reference="https://docs.pytorch.org/docs/stable/generated/torch.nn.utils.clip_grad_norm_.html",
)
FIX = ""


def find(script: Script) -> Iterator[Finding]:
    for clip, step in script.for_every_caller("clip", lambda clip: _other(script, clip)):
        assert step.target is not None
        names = ", ".join(one.name for one in clip.targets)
        yield script.finding(
            CHECK,
            clip.node,
            f"gradients of {names} are clipped, and the step that follows in line {step.line} is that of "
            f"{step.target.name}, which updates {', '.join(one.name for one in step.target.of)}",
            [(step.node, "this step uses gradients that are not clipped")],
        )


def _other(script: Script, clip: Event) -> Event | None:
    """The step after a clipping that surely updates something else, on all ways."""
    if not clip.targets or not clip.extra.get("whole", True):
        return None
    inside = around(script, clip, lambda one: one.kind == "step")
    found: Event | None = None
    for before, after in ways_to(script, clip, inside):
        if not any(event.kind == "backward" for event in before):
            return None
        step = _next(script, clip, after)
        if step is None:
            return None
        found = step
    return found


def _next(script: Script, clip: Event, after: list[Event]) -> Event | None:
    first: Event | None = None
    for event in after:
        if may_step(event, None) or may_go_back(script, event):
            return None
        if event.kind == "backward":
            break
        if event.kind == "step":
            if event.target is None or any(_may_update(event.target, model) for model in clip.targets):
                return None
            first = first or event
        if (
            event.kind == "clip"
            and first is None
            and event is not clip
            and event.targets
            and all(one.is_same(model) for one in event.targets for model in clip.targets)
        ):
            continue
    return first


def _may_update(optimizer: Thing, model: Thing) -> bool:
    return updates(optimizer, model) is not False


_NETS = """
import torch
G, D = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
opt_g, opt_d = torch.optim.Adam(G.parameters()), torch.optim.Adam(D.parameters())
"""
BAD = (
    "from nets import *\nimport torch\nclass Generator(torch.nn.Module):\n    pass\n"
    "class Discriminator(torch.nn.Module):\n    pass\n" + CHECK.example_bad.replace("1.0)", "1.0)  # expect"),
    _NETS
    + """
for real in loader:
    opt_d.zero_grad()
    d_loss = D(G(real).detach()).mean() - D(real).mean()
    d_loss.backward()
    torch.nn.utils.clip_grad_norm_(G.parameters(), 1.0)  # expect
    opt_d.step()
    opt_g.zero_grad()
    g_loss = -D(G(real)).mean()
    g_loss.backward()
    torch.nn.utils.clip_grad_norm_(G.parameters(), 1.0)
    opt_g.step()
""",
    """
import torch
class Agent:
    def __init__(self):
        self.actor = torch.nn.Linear(4, 2)
        self.critic = torch.nn.Linear(4, 1)
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters())
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters())
    def update(self, s, target):
        loss = (self.critic(s) - target).pow(2).mean()
        self.critic_optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.actor.parameters(), 0.5)  # expect
        self.critic_optimizer.step()
""",
    """
import torch
student = torch.nn.Linear(2, 2)
teacher = torch.nn.Linear(2, 2)
optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
for x, y in loader:
    loss = (student(x) - teacher(x).detach()).pow(2).mean()
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_value_(teacher.parameters(), 0.5)  # expect
    optimizer.step()
""",
    _NETS
    + """
scaler = torch.amp.GradScaler("cuda")
for real in loader:
    opt_d.zero_grad()
    scaler.scale(D(real).mean()).backward()
    scaler.unscale_(opt_d)
    torch.nn.utils.clip_grad_norm_(list(G.parameters()), 1.0)  # expect
    scaler.step(opt_d)
    scaler.update()
""",
)
GOOD = (
    _NETS + "D(x).mean().backward()\ntorch.nn.utils.clip_grad_norm_(D.parameters(), 1.0)\nopt_d.step()",
    _NETS
    + """
for x in loader:
    D(G(x)).mean().backward()
    torch.nn.utils.clip_grad_norm_(G.parameters(), 1.0)
    torch.nn.utils.clip_grad_norm_(D.parameters(), 1.0)
    opt_d.step()
    opt_g.step()
""",
    """
import torch
encoder, head = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
model = torch.nn.Sequential(encoder, head)
optimizer = torch.optim.Adam(model.parameters())
for x in loader:
    model(x).mean().backward()
    torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
    optimizer.step()
""",
    """
def update(net, optimizer, loss):
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimizer.step()
""",
    """
import torch
G, D = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
optimizer = torch.optim.Adam([*G.parameters(), *D.parameters()])
for x in loader:
    D(G(x)).mean().backward()
    torch.nn.utils.clip_grad_norm_(G.parameters(), 1.0)
    optimizer.step()
""",
)
