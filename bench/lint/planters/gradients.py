"""How backward() is called and what is kept of the loss: SW106 to SW114."""

from __future__ import annotations

import ast

from lint import additions
from lint.drafts import Draft, Planted
from lint.scripts import NoPlace, Script, called, receiver
from lint.updates import OPTIMIZERS, Update, assigned_before, forward, lightning, method, only, updates
from lint.variants import plants


@plants("SW106")
def backward_of_the_loss_with_the_loss(script: Script) -> Planted:
    return _backward_argument(script, "{loss}")


@plants("SW106")
def gradient_keyword(script: Script) -> Planted:
    return _backward_argument(script, "gradient={loss}")


def _backward_argument(script: Script, argument: str) -> Planted:
    back = updates(script)[0].last
    if back.kind not in ("plain", "scaled") or back.call.args:
        raise NoPlace
    draft = Draft(script)
    draft.append_argument(back.call, argument.format(loss=script.text(back.loss)))
    draft.mark(back.statement)
    return draft.finish()


@plants("SW107")
def retain_graph(script: Script) -> Planted:
    return _retain(script, updates(script)[0])


@plants("SW107")
def retain_graph_of_the_last_update(script: Script) -> Planted:
    found = updates(script)
    if len(found) < 2:
        raise NoPlace
    return _retain(script, found[-1])


def _retain(script: Script, update: Update) -> Planted:
    draft = Draft(script)
    draft.append_argument(update.last.call, "retain_graph=True")
    draft.mark(update.last.statement)
    return draft.finish()


@plants("SW108")
def detach_as_a_statement(script: Script) -> Planted:
    """What is logged or given on is detached, and the detached tensor is thrown away."""
    update = updates(script)[0]
    first = forward(update)
    if not isinstance(first.targets[0], ast.Name):
        raise NoPlace
    draft = Draft(script)
    draft.after(update.step, f"{first.targets[0].id}.detach()", marked=True)
    return draft.finish()


@plants("SW108")
def detach_of_the_fake_pictures_as_a_statement(script: Script) -> Planted:
    draft = Draft(script)
    call = _detached(script)
    statement = script.statement(call)
    text = script.text(call.func.value)
    if isinstance(statement, ast.Assign) and statement.value is call:
        draft.after(statement, f"{script.text(statement.targets[0])}.detach()", marked=True)
    elif isinstance(call.func.value, ast.Name):
        draft.before(statement, f"{text}.detach()", marked=True)
    else:
        raise NoPlace
    draft.replace(call, text)
    draft.mark(statement)
    return draft.finish(also=("SW406",))


def _detached(script: Script) -> ast.Call:
    found = [
        call
        for call in script.all_calls("detach")
        if not call.args and any(update.step.lineno > call.lineno for update in updates(script))
    ]
    if not found or len(updates(script)) < 2:
        raise NoPlace
    return found[0]


@plants("SW108")
def to_device_as_a_statement(script: Script) -> Planted:
    """`images.to(device)` without an assignment, which is right for modules only."""
    for statement in script.statements:
        if isinstance(statement, ast.Assign) and script.loops(statement) and isinstance(statement.value, ast.Call):
            call = statement.value
            if called(call) == "to" and ast.unparse(statement.targets[0]) == receiver(call):
                draft = Draft(script)
                draft.replace(statement, script.text(call), marked=True)
                return draft.finish()
        pair = statement.value if isinstance(statement, ast.Assign) and script.loops(statement) else None
        if isinstance(pair, ast.Tuple) and all(isinstance(one, ast.Call) and called(one) == "to" for one in pair.elts):
            draft = Draft(script)
            lines = [script.text(one) for one in pair.elts]
            draft.replace(statement, f"\n{script.indentation(statement)}".join(lines), marked=True)
            draft.mark(statement)
            return draft.finish()
    raise NoPlace


def _with_loss(script: Script) -> tuple[Update, str, ast.Assign]:
    update = updates(script)[0]
    loss = script.text(update.last.loss)
    if not isinstance(update.last.loss, (ast.Name, ast.Attribute)):
        raise NoPlace
    return update, loss, assigned_before(script, loss, update.last.statement)


@plants("SW109")
def a_new_tensor_of_the_number(script: Script) -> Planted:
    return _detached_loss(script, "{loss} = torch.tensor({loss}.item(), requires_grad=True)")


@plants("SW109")
def detach_and_requires_grad(script: Script) -> Planted:
    return _detached_loss(script, "{loss} = {loss}.detach().requires_grad_()")


@plants("SW109")
def variable_of_the_data(script: Script) -> Planted:
    return _detached_loss(script, "{loss} = torch.autograd.Variable({loss}.data, requires_grad=True)")


def _detached_loss(script: Script, code: str) -> Planted:
    update, loss, made = _with_loss(script)
    draft = Draft(script)
    draft.before(update.last.statement, code.format(loss=loss), marked=True)
    draft.head("import torch")
    draft.mark(update.last.statement, made)
    return draft.finish(also=("SW606",))


@plants("SW110")
def sum_of_losses(script: Script) -> Planted:
    return _sum(script, "total_loss = 0.0", "total_loss += {loss}")


@plants("SW110")
def sum_of_losses_written_out(script: Script) -> Planted:
    return _sum(script, "epoch_loss = 0", "epoch_loss = epoch_loss + {loss}")


@plants("SW110")
def list_of_losses(script: Script) -> Planted:
    return _sum(script, "losses = []", "losses.append({loss})")


def _sum(script: Script, start: str, add: str) -> Planted:
    update, loss, made = _with_loss(script)
    loop = update.batch_loop
    draft = Draft(script)
    name = start.split()[0]
    if f"{name} =" in script.source or f"{name}.append" in script.source:
        raise NoPlace
    draft.before(loop, start, marked=True)
    draft.after(update.step, add.format(loss=loss), marked=True)
    draft.mark(made)
    shown = f"sum({name})" if start.endswith("[]") else name
    draft.after(loop, f'print("loss", {shown})', marked=True)
    return draft.finish()


@plants("SW110")
def list_of_losses_in_a_lightning_module(script: Script) -> Planted:
    owner = lightning(script)[0]
    init, step = method(owner, "__init__"), method(owner, "training_step")
    last = step.body[-1] if step else None
    if init is None or not (isinstance(last, ast.Return) and isinstance(last.value, ast.Name)):
        raise NoPlace
    draft = Draft(script)
    draft.after(init.body[0], "self.train_losses = []", marked=True)
    draft.before(last, f"self.train_losses.append({last.value.id})", marked=True)
    draft.mark(step)
    return draft.finish()


@plants("SW110")
def item_forgotten(script: Script) -> Planted:
    """`total += loss.item()` in training without the `.item()`."""
    for statement in script.statements:
        if isinstance(statement, ast.AugAssign) and isinstance(statement.value, ast.Call) and script.loops(statement):
            call = statement.value
            trained = any(update.function is script.function(statement) for update in updates(script))
            guarded = any(
                isinstance(one, ast.With) and "no_grad" in ast.unparse(one.items[0]) for one in script.around(call)
            )
            if called(call) == "item" and trained and not guarded and "loss" in ast.unparse(statement).lower():
                draft = Draft(script)
                draft.replace(call, script.text(call.func.value), marked=True)
                return draft.finish()
    raise NoPlace


@plants("SW111", additions.accumulation)
def loss_not_divided(script: Script) -> Planted:
    update = only(script)
    loss = ast.unparse(update.last.loss)
    draft = Draft(script)
    for statement in script.statements:
        if not isinstance(statement, ast.Assign) or script.function(statement) is not update.function:
            continue
        value = statement.value
        if ast.unparse(statement.targets[0]) == loss and isinstance(value, ast.BinOp) and isinstance(value.op, ast.Div):
            if ast.unparse(value.left) == loss:
                draft.delete(statement)
            else:
                draft.replace(value, script.text(value.left), marked=True)
            draft.mark(*update.everything, *update.loops, *update.zeros, script.parents[update.step])
            return draft.finish()
    raise NoPlace


@plants("SW112", additions.accumulation)
def index_from_zero(script: Script) -> Planted:
    """`i % 4 == 0`, which steps at the first batch."""
    update = only(script)
    around = next((one for one in script.around(update.step) if isinstance(one, ast.If)), None)
    if around is None:
        raise NoPlace
    for node in ast.walk(around.test):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod) and isinstance(node.left, ast.BinOp):
            draft = Draft(script)
            start, end = script.span(node)[0], script.span(node.right)[0]
            draft.edits.append((start, end, f"{script.text(node.left.left)} % ", True))
            draft.mark(around, *update.everything, *update.loops)
            return draft.finish()
    raise NoPlace


@plants("SW112", additions.accumulation)
def index_from_zero_and_no_last_step(script: Script) -> Planted:
    """The commonest form: the first batch alone is an update, and the last ones leak into the next epoch."""
    update = only(script)
    around = script.parents[update.step]
    if not (isinstance(around, ast.If) and isinstance(around.test, ast.BoolOp) and isinstance(around.test.op, ast.Or)):
        raise NoPlace
    first = around.test.values[0]
    left = first.left if isinstance(first, ast.Compare) else None
    if not (isinstance(left, ast.BinOp) and isinstance(left.op, ast.Mod) and isinstance(left.left, ast.BinOp)):
        raise NoPlace
    draft = Draft(script)
    draft.replace(around.test, f"{script.text(left.left.left)} % {script.text(left.right)} == 0", marked=True)
    draft.mark(around, *update.everything, *update.loops)
    return draft.finish()


@plants("SW114")
def lbfgs_without_closure(script: Script) -> Planted:
    update = updates(script)[0]
    make = update.make()
    if update.scaler or update.call.args or make.kind not in OPTIMIZERS or update.last.kind == "accelerator":
        raise NoPlace
    draft = Draft(script)
    draft.replace(make.call, f"torch.optim.LBFGS({script.text(make.parameters)}, lr=1.0)", marked=True)
    draft.head("import torch")
    draft.mark(*update.everything)
    return draft.finish()
