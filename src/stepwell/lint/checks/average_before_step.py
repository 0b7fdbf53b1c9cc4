"""An average of weights that is updated before the step."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from stepwell.findings import Check, Finding
from stepwell.lint.analysis import Event, Script
from stepwell.lint.analysis.syntax import written

CHECK = Check(
    code="SW505",
    name="average-before-step",
    severity="warning",
    certainty="likely",
    looks_for="an exponential average of the weights is updated between the backward pass and the step",
    why="the average takes the weights of before the step: it is one step late, and misses the last step of the "
    "training",
    instead="update the average after optimizer.step()",
    silent_when="the average is a target network of reinforcement learning, which some papers update first",
    example_bad="for x, y in loader:\n    optimizer.zero_grad()\n    loss_fn(model(x), y).backward()\n    "
    "ema.update()\n    optimizer.step()",
    example_good="for x, y in loader:\n    optimizer.zero_grad()\n    loss_fn(model(x), y).backward()\n    "
    "optimizer.step()\n    ema.update()",
    reference="https://docs.pytorch.org/docs/stable/optim.html#weight-averaging-swa-and-ema",
)
FIX = ""
_UPDATE = re.compile(
    r"(^|[._])(model_)?(ema|swa)(_model|_net|_helper|_weights)?\d?\.(update|step|update_parameters|update_model_average|step_ema)$"
    r"|(^|[._])(update_ema|ema_update|update_average|update_model_average|ema_step|step_ema)$",
    re.I,
)


def find(script: Script) -> Iterator[Finding]:
    for places in script.places("step"):
        found = [_before(script, event) for event in places]
        if all(one is not None for one in found) and found[0] is not None:
            update, backward = found[0]
            yield script.finding(
                CHECK,
                update,
                f"{script.text(update.func)}() comes before the step of line {places[0].line}",
                [(backward, "the gradients are computed here"), (places[0].node, "the weights move here")],
            )


def _before(script: Script, step: Event) -> tuple[ast.Call, ast.AST] | None:
    """The update of an average in the block of a step, between the backward pass and the step."""
    statement = script.statement(step.node)
    block = script.block_of(statement) if statement is not None else None
    if block is None or statement is None:
        return None
    place = next(number for number, one in enumerate(block) if one is statement)
    update: ast.Call | None = None
    for one in reversed(block[:place]):
        call = one.value if isinstance(one, ast.Expr) and isinstance(one.value, ast.Call) else None
        if call is None:
            continue
        name = written(call.func)
        if _UPDATE.search(name):
            update = call
        elif name.endswith("step"):
            return None
        elif name.endswith("backward"):
            return (update, call) if update is not None else None
    return None


_LOOP = "import torch\nfor x, y in loader:\n    optimizer.zero_grad()\n    loss = loss_fn(model(x), y)\n    {}\n"
BAD = (
    CHECK.example_bad.replace("ema.update()", "ema.update()  # expect"),
    _LOOP.format("loss.backward()\n    model_ema.update(model)  # expect\n    optimizer.step()"),
    _LOOP.format("accelerator.backward(loss)\n    ema_model.step(model.parameters())  # expect\n    optimizer.step()"),
    _LOOP.format(
        "scaler.scale(loss).backward()\n    self.ema.update(model)  # expect\n    scaler.step(optimizer)\n    "
        "scaler.update()"
    ),
    _LOOP.format(
        "loss.backward()\n    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n    update_ema(ema_model, "
        "model, 0.999)  # expect\n    optimizer.step()"
    ),
)
GOOD = (
    CHECK.example_good,
    _LOOP.format("loss.backward()\n    optimizer.step()\n    model_ema.update(model)"),
    _LOOP.format("ema.update()\n    loss.backward()\n    optimizer.step()"),
    _LOOP.format("loss.backward()\n    meter.update(loss.item())\n    optimizer.step()"),
    _LOOP.format("loss.backward()\n    soft_update(target_net, net)\n    optimizer.step()"),
)
