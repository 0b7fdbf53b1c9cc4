"""Calls that do not call, updates of two networks, and modules that are no part of their module: SW116 to SW119, SW608
and SW610."""

from __future__ import annotations

import ast

from lint.drafts import Draft, Planted
from lint.scripts import NoPlace, Script
from lint.updates import Update, makes, method, modules, updates
from lint.variants import plants


@plants("SW116")
def step_without_parentheses(script: Script) -> Planted:
    update = updates(script)[-1]
    if update.scaler:
        raise NoPlace
    return _bare(script, update.step, update.call)


@plants("SW116")
def zero_grad_without_parentheses(script: Script) -> Planted:
    update = updates(script)[-1]
    if not update.zeros or not isinstance(update.zeros[0].value, ast.Call):
        raise NoPlace
    return _bare(script, update.zeros[0], update.zeros[0].value)


def _bare(script: Script, statement: ast.stmt, call: ast.Call) -> Planted:
    draft = Draft(script)
    draft.replace(call, script.text(call.func), marked=True)
    draft.mark(statement)
    for update in updates(script):
        draft.mark(*update.everything)
    return draft.finish(also=("SW101", "SW104"))


def _pair(script: Script) -> tuple[Update, Update]:
    """The updates of a discriminator and of a generator in one loop."""
    found = updates(script)
    if len(found) != 2 or found[0].loops[:1] != found[1].loops[:1] or not found[0].loops:
        raise NoPlace
    return found[0], found[1]


def _detached(script: Script, first: Update) -> tuple[ast.Call, str]:
    """Where the pictures are detached for the discriminator, and their name."""
    for call in script.all_calls("detach"):
        if call.lineno < first.step.lineno and script.loops(call):
            if isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name):
                return call, call.func.value.id
            break
    raise NoPlace


@plants("SW117")
def generator_scored_on_detached_pictures(script: Script) -> Planted:
    first, last = _pair(script)
    _, name = _detached(script, first)
    for node in ast.walk(script.tree):
        between = isinstance(node, ast.Call) and first.step.lineno < node.lineno < last.step.lineno
        if between and node.args and isinstance(node.args[0], ast.Name) and node.args[0].id == name:
            draft = Draft(script)
            draft.replace(node.args[0], f"{name}.detach()", marked=True)
            draft.mark(*last.everything, last.step)
            return draft.finish(also=("SW105",))
    raise NoPlace


@plants("SW117")
def the_other_optimizer_steps_twice(script: Script) -> Planted:
    first, last = _pair(script)
    if first.scaler or last.scaler:
        raise NoPlace
    draft = Draft(script)
    draft.replace(first.call.func, f"{last.optimizer}.step", marked=True)
    draft.mark(*first.everything)
    return draft.finish(also=("SW602", "SW104"))


@plants("SW118")
def reset_after_the_step(script: Script) -> Planted:
    """The discriminator's gradients are reset right after its step, before the generator's loss fills them again."""
    first, _ = _pair(script)
    if len(first.zeros) != 1:
        raise NoPlace
    draft = Draft(script)
    draft.move_after(first.zeros[0], first.step)
    draft.mark(*first.everything)
    return draft.finish()


@plants("SW119")
def old_scores_of_the_pictures(script: Script) -> Planted:
    """The generator's loss is computed from the scores of before the discriminator's step."""
    first, last = _pair(script)
    cut, name = _detached(script, first)
    score = script.statement(cut)
    if not isinstance(score, ast.Assign) or score.value is cut or not isinstance(score.targets[0], ast.Name):
        raise NoPlace
    for one in script.blocks[score]:
        again = isinstance(one, ast.Assign) and ast.unparse(one.targets[0]) == score.targets[0].id
        if again and first.step.lineno < one.lineno < last.step.lineno and f"({name})" in ast.unparse(one.value):
            draft = Draft(script)
            draft.delete(one)
            draft.replace(cut, name)
            draft.append_argument(first.last.call, "retain_graph=True")
            draft.mark(*last.everything, *first.everything)
            return draft.finish(also=("SW406", "SW407"))
    raise NoPlace


@plants("SW608")
def layer_made_in_forward(script: Script) -> Planted:
    for owner in modules(script):
        last = method(owner, "forward").body[-1]
        if isinstance(last, ast.Return) and last.value is not None and "Generator" not in owner.name:
            draft = Draft(script)
            draft.replace(last.value, f"torch.nn.Linear(10, 10)({script.text(last.value)})", marked=True)
            draft.head("import torch")
            return draft.finish(also=("SW408", "SW409"))
    raise NoPlace


@plants("SW610")
def requires_grad_of_the_model(script: Script) -> Planted:
    make = makes(script)[0] if makes(script) else None
    if make is None or not make.modules or not make.modules[0].isidentifier():
        raise NoPlace
    draft = Draft(script)
    draft.before(make.statement, f"{make.modules[0]}.requires_grad = False", marked=True)
    return draft.finish()
