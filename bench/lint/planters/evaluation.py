"""Evaluation, modes and losses: SW401 to SW409."""

from __future__ import annotations

import ast

from lint import additions
from lint.drafts import Draft, Planted
from lint.scripts import NoPlace, Script, called, receiver
from lint.updates import method, modules, updates
from lint.variants import plants


def _is_no_grad(node: ast.AST) -> bool:
    return ast.unparse(node).rstrip("()").endswith(("no_grad", "inference_mode"))


def _evals(script: Script) -> list[tuple[ast.stmt, str]]:
    found = [(statement, receiver(call)) for statement, call in script.calls("eval")]
    if not found:
        raise NoPlace
    return found


def _modes_matter(script: Script) -> None:
    """No place where all modules are in the file and none of them has dropout or a batch norm."""
    made = modules(script)
    if made and not any(word in script.source.lower() for word in ("dropout", "batchnorm", "resnet")):
        raise NoPlace


def _trains(script: Script) -> list[ast.stmt]:
    """The statements `model.train()` for which there is a `model.eval()` in the file."""
    names = {name.rsplit(".", 1)[-1] for _, name in _evals(script)}
    return [one for one, call in script.calls("train") if receiver(call).rsplit(".", 1)[-1] in names and not call.args]


@plants("SW401")
def without_no_grad(script: Script) -> Planted:
    """The guard of an evaluation in eval mode goes: the `with` block or the decorator."""
    _evals(script)
    draft = Draft(script)
    for statement in script.statements:
        function = script.function(statement)
        if (
            isinstance(statement, ast.With)
            and len(statement.items) == 1
            and _is_no_grad(statement.items[0].context_expr)
        ):
            near = any(
                script.function(one) is function and one.lineno < statement.end_lineno for one, _ in _evals(script)
            )
            forwards = any(isinstance(node, ast.Call) for one in statement.body for node in ast.walk(one))
            loops = script.loops(statement) or any(isinstance(node, ast.For) for node in ast.walk(statement))
            if near and forwards and loops:
                draft.mark(*script.loops(statement), function if isinstance(function, ast.FunctionDef) else None)
                draft.mark(*(one for one, _ in _evals(script) if script.function(one) is function))
                draft.dedent(statement)
                return draft.finish()
        if isinstance(statement, ast.FunctionDef):
            for decorator in statement.decorator_list:
                inside = any(script.function(one) is statement for one, _ in _evals(script))
                if _is_no_grad(decorator) and inside:
                    line = decorator.lineno
                    draft.edits.append((script.starts[line - 1], script.starts[line], "", False))
                    draft.mark(statement, *(node for node in ast.walk(statement) if isinstance(node, ast.stmt)))
                    return draft.finish()
    raise NoPlace


@plants("SW401", additions.evaluation)
def added_evaluation_without_no_grad(script: Script) -> Planted:
    if "log_prediction" not in script.source:
        raise NoPlace
    return without_no_grad(script)


@plants("SW402")
def without_train(script: Script) -> Planted:
    return _without_train(script)


@plants("SW402", additions.evaluation)
def added_evaluation_without_train(script: Script) -> Planted:
    if "log_prediction" not in script.source:
        raise NoPlace
    return _without_train(script)


def _without_train(script: Script) -> Planted:
    found = _trains(script)
    _modes_matter(script)
    if not found:
        raise NoPlace
    draft = Draft(script)
    draft.delete(*found)
    draft.mark(*(one for one, _ in _evals(script)))
    _mark_updates(draft)
    return draft.finish()


@plants("SW402")
def train_before_the_epoch_loop(script: Script) -> Planted:
    """The model is put into training mode once, and evaluated after each epoch."""
    found = _trains(script)
    evals = _evals(script)
    if not found or not script.loops(found[0]):
        raise NoPlace
    loop = script.loops(found[0])[-1]
    if not any(loop in script.loops(one) for one, _ in evals):
        raise NoPlace
    draft = Draft(script)
    draft.before(loop, draft.code(found[0]))
    draft.delete(*found)
    draft.mark(*(one for one, _ in evals))
    _mark_updates(draft)
    return draft.finish()


def _mark_updates(draft: Draft) -> None:
    try:
        for update in updates(draft.script):
            draft.mark(*update.everything, *update.loops)
    except NoPlace:
        pass


@plants("SW404")
def without_eval(script: Script) -> Planted:
    found = _evals(script)
    _modes_matter(script)
    draft = Draft(script)
    draft.delete(*(one for one, _ in found))
    for one, _ in found:
        function = script.function(one)
        draft.mark(function if isinstance(function, ast.FunctionDef) else None, *script.loops(one))
        draft.mark(*_after(script, one))
    return draft.finish()


def _after(script: Script, statement: ast.stmt) -> list[ast.stmt]:
    """What stands behind a statement in its function: there the missing eval mode may be named."""
    function = script.function(statement)
    return [one for one in script.statements if one.lineno > statement.lineno and script.function(one) is function]


@plants("SW404", additions.evaluation)
def train_in_place_of_eval(script: Script) -> Planted:
    statement, name = _evals(script)[-1]
    draft = Draft(script)
    draft.replace(statement, f"{name}.train()", marked=True)
    draft.mark(*_after(script, statement))
    return draft.finish()


@plants("SW405")
def dropout_without_training(script: Script) -> Planted:
    return _dropout(script, "torch.nn.functional.dropout({}, p=0.5)")


@plants("SW405")
def dropout_with_its_default(script: Script) -> Planted:
    return _dropout(script, "torch.nn.functional.dropout({})")


def _dropout(script: Script, call: str) -> Planted:
    for owner in modules(script):
        body = method(owner, "forward").body
        if isinstance(body[-1], ast.Return) and body[-1].value is not None:
            draft = Draft(script)
            draft.replace(body[-1].value, call.format(script.text(body[-1].value)), marked=True)
            draft.head("import torch")
            return draft.finish()
    raise NoPlace


def _discriminator_detach(script: Script) -> ast.Call:
    found = updates(script)
    if len(found) < 2:
        raise NoPlace
    calls = [call for call in script.all_calls("detach") if call.lineno < found[0].step.lineno and script.loops(call)]
    if not calls:
        raise NoPlace
    return calls[0]


@plants("SW406")
def fake_not_detached_and_all_gradients_reset_at_the_head(script: Script) -> Planted:
    """What the discriminator's loss does to the generator stays until the generator's step."""
    call = _discriminator_detach(script)
    found = updates(script)
    if not found[0].zeros or not found[-1].zeros:
        raise NoPlace
    draft = Draft(script)
    draft.replace(call, script.text(call.func.value), marked=True)
    draft.before(found[0].zeros[0], draft.code(found[-1].zeros[0]))
    draft.delete(found[-1].zeros[0])
    draft.append_argument(found[0].last.call, "retain_graph=True")
    for update in found:
        draft.mark(*update.everything)
    return draft.finish(also=("SW107",))


@plants("SW406")
def fake_not_detached(script: Script) -> Planted:
    """Only where the generator's update uses the same pictures again: their graph is gone by then."""
    call = _discriminator_detach(script)
    if isinstance(script.statement(call), ast.Assign) and script.statement(call).value is call:
        raise NoPlace
    draft = Draft(script)
    draft.replace(call, script.text(call.func.value), marked=True)
    for update in updates(script):
        draft.mark(*update.everything)
    return draft.finish()


def _cross_entropies(script: Script) -> list[ast.Call]:
    """Calls of the cross-entropy, as a function or by a name that is one."""
    made = {
        ast.unparse(one.targets[0])
        for one in script.statements
        if isinstance(one, ast.Assign) and isinstance(one.value, ast.Call) and called(one.value) == "CrossEntropyLoss"
    }
    return [
        node
        for node in ast.walk(script.tree)
        if isinstance(node, ast.Call)
        and (called(node) == "cross_entropy" or ast.unparse(node.func) in made)
        and node.args
        and isinstance(node.args[0], ast.Name)
    ]


@plants("SW408")
def softmax_before_the_loss(script: Script) -> Planted:
    for call in _cross_entropies(script):
        name = script.text(call.args[0])
        draft = Draft(script)
        draft.before(script.statement(call), f"{name} = torch.softmax({name}, dim=1)", marked=True)
        draft.head("import torch")
        draft.mark(script.statement(call))
        return draft.finish()
    raise NoPlace


@plants("SW408")
def softmax_in_the_argument(script: Script) -> Planted:
    for call in _cross_entropies(script):
        draft = Draft(script)
        draft.replace(call.args[0], f"torch.nn.functional.softmax({script.text(call.args[0])}, dim=-1)", marked=True)
        draft.head("import torch")
        return draft.finish()
    raise NoPlace


@plants("SW408")
def softmax_at_the_end_of_forward(script: Script) -> Planted:
    calls = _cross_entropies(script)
    owners = modules(script)
    if not calls or not owners:
        raise NoPlace
    body = method(owners[0], "forward").body
    last = body[-1]
    if not (isinstance(last, ast.Return) and last.value is not None):
        raise NoPlace
    draft = Draft(script)
    draft.replace(last.value, f"torch.nn.functional.softmax({script.text(last.value)}, dim=1)", marked=True)
    draft.head("import torch")
    draft.mark(*(script.statement(call) for call in calls))
    return draft.finish()


@plants("SW409")
def nll_of_logits(script: Script) -> Planted:
    """nll_loss or NLLLoss where the cross-entropy was."""
    for node in ast.walk(script.tree):
        if isinstance(node, ast.Call) and called(node) in ("cross_entropy", "CrossEntropyLoss"):
            if not isinstance(node.func, ast.Attribute) or node.keywords:
                continue
            new = "nll_loss" if called(node) == "cross_entropy" else "NLLLoss"
            draft = Draft(script)
            draft.replace(node.func, f"{script.text(node.func.value)}.{new}", marked=True)
            draft.mark(script.statement(node), *(script.statement(one) for one in _cross_entropies(script)))
            return draft.finish()
    raise NoPlace


@plants("SW409")
def log_softmax_removed(script: Script) -> Planted:
    if "nll_loss" not in script.source and "NLLLoss" not in script.source:
        raise NoPlace
    for call in script.all_calls("log_softmax"):
        draft = Draft(script)
        argument = call.args[0] if call.args else call.func.value
        draft.replace(call, script.text(argument), marked=True)
        draft.mark(*(script.statement(one) for one in script.all_calls("nll_loss")))
        return draft.finish()
    raise NoPlace


@plants("SW409")
def sigmoid_removed_before_bce(script: Script) -> Planted:
    if "BCELoss(" not in script.source:
        raise NoPlace
    for call in script.all_calls("Sigmoid"):
        outer = script.parents[call]
        if not isinstance(outer, ast.Call) or outer.args[-1] is not call or len(outer.args) < 2:
            continue
        draft = Draft(script)
        start, end = script.span(outer.args[-2])[1], script.span(call)[1]
        draft.edits.append((start, end, "", False))
        draft.mark(*(script.statement(one) for one in script.all_calls("criterion")))
        draft.mark(*(script.statement(one) for one in script.all_calls("BCELoss")), script.statement(outer))
        return draft.finish()
    raise NoPlace


@plants("SW409")
def bce_with_logits_name_lost(script: Script) -> Planted:
    for node in ast.walk(script.tree):
        if isinstance(node, ast.Call) and called(node) in ("binary_cross_entropy_with_logits", "BCEWithLogitsLoss"):
            new = "BCELoss" if called(node) == "BCEWithLogitsLoss" else "binary_cross_entropy"
            draft = Draft(script)
            draft.replace(node.func, f"{script.text(node.func.value)}.{new}", marked=True)
            name = script.statement(node)
            target = ast.unparse(name.targets[0]) if isinstance(name, ast.Assign) else ""
            draft.mark(name, *(script.statement(one) for one in script.all_calls(target)))
            return draft.finish()
    raise NoPlace
