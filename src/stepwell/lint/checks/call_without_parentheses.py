"""A method that is named and not called: `optimizer.step` in place of `optimizer.step()`."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from stepwell.findings import Check, Edit, Finding, Fix
from stepwell.lint import edits
from stepwell.lint.analysis import Script
from stepwell.lint.analysis.syntax import written

CHECK = Check(
    code="SW116",
    name="call-without-parentheses",
    severity="error",
    certainty="certain",
    looks_for="a statement names backward, step, zero_grad or another method of training, and does not call it",
    why="the statement does nothing: no gradient, no update, no reset, and Python does not complain",
    instead="add the parentheses",
    silent_when="the name is part of an expression, such as an argument",
    example_bad="loss.backward()\noptimizer.step",
    example_good="loss.backward()\noptimizer.step()",
    reference="https://docs.python.org/3/reference/expressions.html#calls",
)
FIX = "safe"
_METHODS = frozenset(("step", "backward", "zero_grad", "unscale_", "update", "train", "eval"))
_ANY_OWNER = frozenset(("backward", "zero_grad", "unscale_"))
_OWNERS = ("opt", "optim", "sched", "scaler", "model", "net", "policy", "actor", "critic", "generator", "discriminator")


def find(script: Script) -> Iterator[Finding]:
    for node in script.each(ast.Expr):
        if isinstance(node.value, ast.Attribute) and _is_method(node.value):
            named = node.value
            line, end = (
                named.end_lineno or named.lineno,
                script.column(named.end_lineno or 1, named.end_col_offset or 0),
            )
            yield script.finding(
                CHECK,
                named,
                f"{edits.text(script, named)} is named here and not called",
                fix=Fix("add the parentheses", (Edit((line, end), (line, end), "()"),), safe=named.attr in _ANY_OWNER),
            )


def _is_method(node: ast.Attribute) -> bool:
    if node.attr in _ANY_OWNER:
        return True
    owner = written(node.value).lower().rsplit(".", 1)[-1]
    return node.attr in _METHODS and any(word in owner for word in _OWNERS)


BAD = (
    "loss.backward()\noptimizer.step  # expect",
    """
for x, y in loader:
    optimizer.zero_grad  # expect
    loss = loss_fn(model(x), y)
    loss.backward()
    optimizer.step()
""",
    """
class Trainer:
    def update(self, loss):
        self.optimizer.zero_grad()
        loss.backward  # expect
        self.optimizer.step()
""",
    """
for epoch in range(10):
    train(model)
    scheduler.step  # expect
""",
    """
for x, y in loader:
    scaler.scale(loss_fn(model(x), y)).backward()
    scaler.step(optimizer)
    scaler.update  # expect
""",
    """
def validate(model, loader):
    model.eval  # expect
    with torch.no_grad():
        for x, y in loader:
            model(x)
""",
)
GOOD = (
    CHECK.example_good,
    "profile(loss.backward)\nhooks.append(optimizer.step)",
    "old = optimizer.step\noptimizer.step = wrapped",
    "env.step\nprogress.update",
    "callbacks = [scheduler.step, model.train]",
    'reveal_type(loss.backward)\n"""optimizer.step"""',
)
