"""backward() with an argument that weights the gradients by the loss itself."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from stepwell.findings import Check, Edit, Finding, Fix
from stepwell.lint.analysis import Event, Script, Tensor, Thing
from stepwell.lint.analysis.syntax import written

CHECK = Check(
    code="SW106",
    name="backward-argument",
    severity="error",
    certainty="certain",
    looks_for="backward() is given the loss, a model, an optimizer or a flag as its first argument, which is the "
    "gradient",
    why="the argument is what the gradients are multiplied with: with the loss in it, steps shrink with the loss; "
    "anything that is no tensor raises",
    instead="call backward() without it",
    silent_when="the argument is another tensor: a sign, a weight, or the gradient of a vector",
    example_bad="loss = loss_fn(model(x), y)\nloss.backward(loss)",
    example_good="loss = loss_fn(model(x), y)\nloss.backward()",
    reference="https://docs.pytorch.org/docs/stable/generated/torch.Tensor.backward.html",
)
FIX = "safe"


def find(script: Script) -> Iterator[Finding]:
    for places in script.places("backward"):
        if all(_words(event) for event in places):
            event = places[0]
            call, given = event.node, _given(event.node)
            assert isinstance(call, ast.Call)
            assert given is not None
            yield script.finding(
                CHECK,
                call,
                f"the gradients are multiplied with {written(given)}, which is {_words(event)}",
                fix=_fix(script, call),
            )


def _given(call: ast.AST) -> ast.expr | None:
    if not isinstance(call, ast.Call):
        return None
    return next((one.value for one in call.keywords if one.arg == "gradient"), call.args[0] if call.args else None)


def _words(event: Event) -> str:
    """What is wrongly given to a backward pass, or ""."""
    call = event.node
    given = _given(call)
    if (
        given is None
        or not isinstance(call, ast.Call)
        or not isinstance(call.func, ast.Attribute)
        or call.func.attr != "backward"
    ):
        return ""
    if event.by is not None and event.by.kind != "scaler":
        return ""
    text = written(given)
    if not event.extra.get("known") or not isinstance(event.value, Tensor):
        plain = isinstance(given, ast.Name) and "loss" in text.lower() and text == written(call.func.value)
        return "the loss itself" if plain else ""
    value = event.extra.get("given")
    if text == written(call.func.value) or value is event.value:
        return "the loss itself"
    if (
        isinstance(value, Tensor)
        and (value.by == "loss" or event.value.by == "scaled")
        and any(one is value for one in event.value.history())
    ):
        return "the loss itself"
    if isinstance(value, Thing) and value.kind in ("optimizer", "model", "scheduler", "criterion"):
        return f"no tensor, but the {value.kind}"
    if isinstance(given, ast.Constant) and isinstance(given.value, bool):
        return "no tensor: retain_graph is the second argument"
    return ""


def _fix(script: Script, call: ast.Call) -> Fix | None:
    if len(call.args) + len(call.keywords) != 1 or isinstance(_given(call), ast.Constant):
        return None
    assert isinstance(call.func, ast.Attribute)
    start, line = call.func.end_lineno or call.lineno, call.end_lineno or call.lineno
    first = (start, script.column(start, call.func.end_col_offset or 0))
    return Fix(
        "drop the argument", (Edit(first, (line, script.column(line, call.end_col_offset or 0)), "()"),), safe=True
    )


BAD = (
    "loss = torch.nn.functional.mse_loss(model(x), y)\nloss.backward(loss)  # expect",
    """
for x, y in loader:
    optimizer.zero_grad()
    loss = criterion(model(x), y)
    loss.backward(gradient=loss)  # expect
    optimizer.step()
""",
    """
class Trainer:
    def step(self, x, y):
        self.loss = self.criterion(self.model(x), y)
        self.optimizer.zero_grad()
        self.loss.backward(self.loss)  # expect
        self.optimizer.step()
""",
    """
def train(model, loader, optimizer, criterion, scaler):
    for x, y in loader:
        loss = criterion(model(x), y)
        scaler.scale(loss).backward(loss)  # expect
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
""",
    """
for x, y in loader:
    optimizer.zero_grad()
    loss = criterion(model(x), y)
    loss.backward(True)  # expect
    loss.backward()
    optimizer.step()
""",
    """
for x, y in loader:
    loss = criterion(model(x), y)
    loss.backward(optimizer)  # expect
    optimizer.step()
""",
)
GOOD = (
    "loss = loss_fn(model(x), y)\nloss.backward()",
    "out = model(x)\nout.backward(torch.ones_like(out))",
    """
one, mone = torch.tensor(1.0), torch.tensor(-1.0)
for real in loader:
    D(real).mean().backward(mone)
    D(G(z)).mean().backward(one)
    opt_d.step()
""",
    """
for batch in loader:
    loss = model(**batch).loss
    accelerator.backward(loss)
""",
    """
class Layer:
    def backward(self, grad):
        return self.inner.backward(grad)
""",
    "loss = loss_fn(model(x), y)\nloss.backward(retain_graph=True)\nloss.backward(weights)",
)
