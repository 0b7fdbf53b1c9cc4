"""A loss that has lost its graph before backward()."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from stepwell.findings import Check, Finding
from stepwell.lint.analysis import Event, Script, Tensor
from stepwell.lint.analysis.syntax import written

CHECK = Check(
    code="SW109",
    name="detached-loss",
    severity="error",
    certainty="certain",
    looks_for="backward() is called on loss.item(), loss.data, loss.detach() or a new tensor made from the loss; or a "
    "term of the loss compares an output that was detached",
    why="there is no way from there to the weights: backward() raises, or, where the new tensor requires gradients, "
    "computes none for the model, so that nothing is learned",
    instead="call backward() on the loss itself, and detach copies for logging only",
    silent_when="the new tensor begins a new graph and is not made from a loss",
    example_bad="loss = loss_fn(model(x), y)\nloss = loss.detach()\nloss.backward()",
    example_good="loss = loss_fn(model(x), y)\nlogged = loss.detach()\nloss.backward()",
    reference="https://docs.pytorch.org/docs/stable/generated/torch.Tensor.detach.html",
)
FIX = ""
_SUMS = frozenset(["+", "-", "*", "/", "mean", "sum", "scaled"])
_PLUS = frozenset(["+"])
_CUT = re.compile(r"\.(item|detach|tolist|numpy|cpu\(\)\.numpy)\(\)|\.data\b|loss", re.I)
_TERM = re.compile(r"(^|[_.])(loss|err|cost|penalty)|loss(_\w+)?$", re.I)
_NEW = ("tensor", "as_tensor", "Variable", "from_numpy", "FloatTensor", "Tensor", "DoubleTensor")


def find(script: Script) -> Iterator[Finding]:
    for event, cut in script.for_every_caller("backward", _cut):
        same = getattr(cut, "lineno", 0) == event.line
        yield script.finding(
            CHECK,
            event.node,
            f"this loss lost its graph in {script.text(cut) if isinstance(cut, ast.expr) else 'an assignment'}"
            + ("" if same else f", in line {getattr(cut, 'lineno', 0)}"),
            [] if same else [(cut, "the graph is cut here")],
        )

    for event, marked in script.for_every_caller("backward", lambda event: _marked(script, event)):
        yield script.finding(
            CHECK,
            event.node,
            f"this loss has no graph: requires_grad in line {getattr(marked, 'lineno', 0)} lets backward() run, and no "
            "weight gets a gradient",
            [(marked, "this makes the loss a leaf of a new graph")],
            instead="compute the loss from the output of the model, without numpy, item() or detach() on the way",
        )

    for places in script.places("backward"):
        terms = [_dead_term(event) for event in places]
        first = terms[0]
        if first is not None and all(one is not None for one in terms):
            term, output = first
            yield script.finding(
                CHECK,
                term.node or places[0].node,
                "this term of the loss has no graph: what it compares was detached",
                [(output.node or places[0].node, "the graph is cut here"), (places[0].node, "the sum goes backward")],
                instead="compute the term from the output itself, and detach copies for logging only",
            )

    for places in script.places("backward"):
        detached = [_detached_term(event) for event in places]
        if detached[0] is not None and all(one is not None for one in detached):
            yield script.finding(
                CHECK,
                detached[0].node or places[0].node,
                f"{written(detached[0].node) if detached[0].node is not None else 'a term'} is added to the loss: a "
                "detached term moves no weight",
                [(places[0].node, "the sum goes backward")],
                instead="add the term itself, and detach copies for logging only",
            )


def _marked(script: Script, event: Event) -> ast.AST | None:
    """`loss.requires_grad = True`, or Variable(loss, requires_grad=True), for a loss without a graph."""
    call, loss = event.call, event.value
    if not isinstance(loss, Tensor) or loss.attached is not False or not event.extra.get("known"):
        return None
    if call is None or not isinstance(call.func, ast.Attribute):
        return None
    name = written(call.func.value)
    statement = script.statement(event.node)
    block = script.block_of(statement) if statement is not None else None
    for one in reversed((block or [])[: (block or []).index(statement)] if block and statement in block else []):
        if not isinstance(one, ast.Assign) or len(one.targets) != 1:
            continue
        target, value = written(one.targets[0]), one.value
        if target == f"{name}.requires_grad" and isinstance(value, ast.Constant) and value.value is True:
            return one
        if target == name:
            given = {word.arg: word.value for word in value.keywords} if isinstance(value, ast.Call) else {}
            flag = given.get("requires_grad")
            first = value.args[0] if isinstance(value, ast.Call) and value.args else None
            if not (isinstance(flag, ast.Constant) and flag.value is True and isinstance(first, ast.Name)):
                return None
            return one if _CUT.search(first.id) else None
    return None


def _dead_term(event: Event) -> tuple[Tensor, Tensor] | None:
    """(term, detached output) of a sum that is differentiated, where the term cannot move any weight."""
    if not isinstance(event.value, Tensor) or event.value.attached is not True:
        return None
    for one in _terms(event.value, _SUMS):
        if one.by == "loss" and one.attached is False and one.parts:
            cut = next((part for part in one.history() if _is_output(part.cut_from)), None)
            if cut is not None and all(part.attached is False for part in one.history()):
                return one, cut
    return None


def _detached_term(event: Event) -> Tensor | None:
    """A loss that was detached, as a term of the sum that is differentiated."""
    if not isinstance(event.value, Tensor) or event.value.attached is False:
        return None
    for one in _terms(event.value, _PLUS):
        node = one.node
        cut = node.func if one.by == "detach" and isinstance(node, ast.Call) else None
        of = cut.value if isinstance(cut, ast.Attribute) and cut.attr == "detach" else None
        if isinstance(of, (ast.Name, ast.Attribute)) and _TERM.search(written(of)):
            return one
    return None


def _terms(loss: Tensor, through: frozenset[str]) -> Iterator[Tensor]:
    """What a loss is made of, where the operations `through` are looked into."""
    todo, seen = [loss], set()
    while todo:
        one = todo.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if one.by in through:
            todo += one.parts
        else:
            yield one


def _is_output(tensor: Tensor | None) -> bool:
    """Whether a model has computed a tensor, with its graph."""
    return tensor is not None and tensor.attached is True and any(one.kind == "model" for one in tensor.models)


def _cut(event: Event) -> ast.AST | None:
    """Where the graph of what is back-propagated was cut."""
    if event.extra.get("number"):
        cut: ast.AST | None = event.extra.get("number_node")
        return cut if cut is not None else event.node
    loss = event.value
    if not isinstance(loss, Tensor) or not event.extra.get("known"):
        return None
    todo: Tensor | None = loss
    while todo is not None and todo.by in (
        "scaled",
        "/",
        "*",
        "-",
        "mean",
        "sum",
        "requires_grad_",
        "to",
        "cuda",
        "float",
        "leaf",
        "squeeze",
        "amp",
    ):
        if todo.by == "leaf" or len(todo.parts) != 1:
            break
        todo = todo.parts[0]
    if todo is None or todo.node is None:
        return None
    node = todo.node
    if todo.attached is False and todo.by in ("detach", "data") and _of_loss(node):
        return node
    if todo.by in ("new", "leaf", "detach") and isinstance(node, ast.Call):
        name = written(node.func).rsplit(".", 1)[-1]
        if name in _NEW and node.args and _CUT.search(written(node.args[0])):
            return node
        if name == "requires_grad_" and isinstance(node.func, ast.Attribute):
            inner = node.func.value
            if re.search(r"\.(item|detach)\(\)|\.data\b", written(inner)) or (
                isinstance(inner, ast.Call)
                and written(inner.func).rsplit(".", 1)[-1] in _NEW
                and _CUT.search(written(inner))
            ):
                return node
    return None


def _of_loss(node: ast.AST) -> bool:
    """Whether something called a loss, or an expression, was detached: not an input whose gradients are wanted."""
    text = written(node)
    return bool(re.search(r"loss|cost|err|objective|criterion|nll|bce|mse", text, re.I)) or isinstance(
        getattr(getattr(node, "func", node), "value", None), (ast.BinOp, ast.Call)
    )


BAD: tuple[str, ...] = (
    """
import torch
from torch.autograd import Variable
model = torch.nn.Linear(4, 2)
criterion = torch.nn.MSELoss()
optimizer = torch.optim.Adam(model.parameters())
for x, y in loader:
    optimizer.zero_grad()
    output = model(x)
    loss = criterion(torch.tensor(output.tolist()), y)
    loss.requires_grad = True
    loss.backward()  # expect
    optimizer.step()
""",
    """
import torch
from torch import nn
G, D = nn.Linear(4, 4), nn.Linear(4, 1)
opt_g = torch.optim.Adam(G.parameters())
bce, l1, ones = nn.BCEWithLogitsLoss(), nn.L1Loss(), torch.ones(4, 1)
for x, real in loader:
    fake = G(x)
    answer = D(fake).detach()
    adversarial = bce(answer, ones)  # expect
    total = 50 * l1(fake, real) + adversarial
    opt_g.zero_grad()
    total.backward()
    opt_g.step()
""",
    "import torch\n" + CHECK.example_bad.replace("backward()", "backward()  # expect"),
    """
for x, y in loader:
    optimizer.zero_grad()
    loss = criterion(model(x), y)
    loss = loss.item()
    loss.backward()  # expect
    optimizer.step()
""",
    """
import torch
from torch.autograd import Variable
class Trainer:
    def step(self, x, y):
        loss = self.criterion(self.model(x), y)
        loss = Variable(loss.data, requires_grad=True)
        self.optimizer.zero_grad()
        loss.backward()  # expect
        self.optimizer.step()
""",
    """
import torch
def train(model, loader, optimizer, criterion):
    for x, y in loader:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss = torch.tensor(loss.item(), requires_grad=True)
        loss.backward()  # expect
        optimizer.step()
""",
    """
for x, y in loader:
    optimizer.zero_grad()
    loss = criterion(model(x), y)
    loss.data.backward()  # expect
    optimizer.step()
""",
    """
for x, y in loader:
    optimizer.zero_grad()
    loss = criterion(model(x), y)
    scaler.scale(loss.detach() / 4).backward()  # expect
    scaler.step(optimizer)
    scaler.update()
""",
)
BAD = (
    *BAD,
    """
for blurred, sharp in loader:
    fake = generator(blurred)
    adversarial_loss = adversarial(discriminator(fake))
    content_loss = mse(fake, sharp)
    loss = adversarial_loss.detach() + 100 * content_loss  # expect
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
""",
)
GOOD = (
    """
for x, y in loader:
    loss_a, loss_b = task_a(model(x), y), task_b(model(x), y)
    loss = loss_a / loss_a.detach() + loss_b / loss_b.detach()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
""",
    """
import torch
from torch.nn.utils.rnn import pack_padded_sequence
for images, captions, lengths in loader:
    scores, alphas = decoder(encoder(images), captions)
    scores = pack_padded_sequence(scores, lengths, batch_first=True).data
    targets = pack_padded_sequence(captions, lengths, batch_first=True).data
    loss = criterion(scores, targets)
    loss += ((1.0 - alphas.sum(dim=1)) ** 2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
""",
    """
import torch
for x, y in loader:
    out = model(x)
    with torch.no_grad():
        goal = teacher(x)
    loss = criterion(out, y) + 0.5 * criterion(out, goal) + model.penalty()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
""",
    CHECK.example_good,
    """
for x, y in loader:
    optimizer.zero_grad()
    loss = criterion(model(x), y)
    value = loss.item()
    loss.backward()
    optimizer.step()
    loss = loss.item()
""",
    """
import torch
loss = torch.tensor(0.0)
for head in heads:
    loss = loss + head.loss(x)
loss.backward()
""",
    """
import torch
x = torch.tensor(2.0, requires_grad=True)
y = x ** 2
y.backward()
""",
    """
import torch
w = torch.tensor(1.0, requires_grad=True)
loss = 0
for x, y in loader:
    loss += ((w * x - y) ** 2).mean()
loss.backward()
""",
)
