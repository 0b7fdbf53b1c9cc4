"""Resets, backward passes and steps that are missing or in the wrong order: SW101 to SW105."""

from __future__ import annotations

import ast

from lint.drafts import Draft, Planted
from lint.scripts import NoPlace, Script
from lint.updates import Update, epoch_loop, lightning, makes, method, updates
from lint.variants import plants


def with_zeros(script: Script, last: bool) -> Update:
    found = [update for update in updates(script) if update.zeros]
    if not found or (last and len(found) < 2):
        raise NoPlace
    return found[-1] if last else found[0]


@plants("SW101")
def without_zero_grad(script: Script) -> Planted:
    return _without_zeros(script, with_zeros(script, last=False))


@plants("SW101")
def without_the_zero_grad_of_the_second_optimizer(script: Script) -> Planted:
    return _without_zeros(script, with_zeros(script, last=True))


@plants("SW101")
def zero_grad_before_all_loops(script: Script) -> Planted:
    """Once before the training, as the reset of `a.grad` in a notebook."""
    update = with_zeros(script, last=False)
    make = update.make().statement
    if script.function(make) is not update.function or not update.loops:
        raise NoPlace
    draft = Draft(script)
    draft.before(update.loops[-1], draft.code(update.zeros[0]))
    draft.delete(*update.zeros)
    draft.mark(*update.everything, *update.loops)
    return draft.finish(named_by=("SW102",))


@plants("SW101")
def zero_grad_without_parentheses(script: Script) -> Planted:
    update = with_zeros(script, last=False)
    draft = Draft(script)
    for zero in update.zeros:
        draft.replace(zero.value, script.text(zero.value.func))
        draft.mark(zero)
    draft.mark(*update.everything, *update.loops)
    return draft.finish()


def _without_zeros(script: Script, update: Update) -> Planted:
    draft = Draft(script)
    draft.delete(*update.zeros)
    draft.mark(*update.everything, *update.loops)
    return draft.finish()


@plants("SW102")
def zero_grad_before_the_batch_loop(script: Script) -> Planted:
    return _outside(script, with_zeros(script, last=False), after=False)


@plants("SW102")
def zero_grad_after_the_batch_loop(script: Script) -> Planted:
    return _outside(script, with_zeros(script, last=False), after=True)


@plants("SW102")
def zero_grad_of_the_second_optimizer_before_the_batch_loop(script: Script) -> Planted:
    return _outside(script, with_zeros(script, last=True), after=False)


def _outside(script: Script, update: Update, after: bool) -> Planted:
    loop = update.batch_loop
    try:
        epoch_loop(update)
        named_by: tuple[str, ...] = ()
    except NoPlace:  # nothing repeats the loop in this file: a reset before it is none at all
        named_by = ("SW101",)
    draft = Draft(script)
    code = draft.code(update.zeros[-1])
    (draft.after if after else draft.before)(loop, code, marked=True)
    draft.delete(*update.zeros)
    draft.mark(*update.everything, *update.loops)
    return draft.finish(named_by=named_by)


@plants("SW103")
def zero_grad_moved_behind_backward(script: Script) -> Planted:
    update = with_zeros(script, last=False)
    draft = Draft(script)
    draft.after(update.last.statement, draft.code(update.zeros[0]), marked=True)
    draft.delete(*update.zeros)
    draft.mark(*update.everything)
    return draft.finish()


@plants("SW103")
def zero_grad_moved_before_step(script: Script) -> Planted:
    update = with_zeros(script, last=False)
    draft = Draft(script)
    draft.before(update.step, draft.code(update.zeros[0]), marked=True)
    draft.delete(*update.zeros)
    draft.mark(*update.everything)
    return draft.finish()


@plants("SW103")
def a_further_zero_grad_before_the_last_step(script: Script) -> Planted:
    update = with_zeros(script, last=False)
    update = updates(script)[-1] if updates(script)[-1].zeros else update
    draft = Draft(script)
    draft.before(update.step, f"{update.optimizer}.zero_grad()", marked=True)
    draft.mark(*update.everything, *update.zeros)
    return draft.finish()


@plants("SW104")
def without_step(script: Script) -> Planted:
    return _without_step(script, updates(script)[0])


@plants("SW104")
def without_the_step_of_the_second_optimizer(script: Script) -> Planted:
    found = updates(script)
    if len(found) < 2:
        raise NoPlace
    return _without_step(script, found[-1])


@plants("SW104")
def step_without_parentheses(script: Script) -> Planted:
    update = updates(script)[0]
    draft = Draft(script)
    text = script.text(update.call.func)
    if update.scaler:
        raise NoPlace
    draft.replace(update.call, text)
    _mark_all(draft, update)
    return draft.finish()


def _without_step(script: Script, update: Update) -> Planted:
    draft = Draft(script)
    draft.delete(update.step)
    _mark_all(draft, update)
    return draft.finish(also=("SW305",))


@plants("SW105")
def without_backward(script: Script) -> Planted:
    return _without_backward(script, updates(script)[0])


@plants("SW105")
def without_the_backward_of_the_second_optimizer(script: Script) -> Planted:
    found = updates(script)
    if len(found) < 2:
        raise NoPlace
    return _without_backward(script, found[-1])


@plants("SW105")
def backward_without_parentheses(script: Script) -> Planted:
    update = updates(script)[0]
    if len(update.backwards) > 1 or update.last.kind in ("accelerator", "manual"):
        raise NoPlace
    draft = Draft(script)
    draft.replace(update.last.call, script.text(update.last.call.func))
    _mark_all(draft, update)
    return draft.finish()


@plants("SW104")
def manual_optimization_without_step(script: Script) -> Planted:
    """Lightning: automatic optimization is switched off, and nothing steps."""
    owner = lightning(script)[0]
    init, step = method(owner, "__init__"), method(owner, "training_step")
    if init is None or step is None or len(init.body) < 2 or not isinstance(step.body[-1], ast.Return):
        raise NoPlace
    draft = Draft(script)
    draft.after(init.body[0], "self.automatic_optimization = False")
    loss = next((node for node in ast.walk(step) if isinstance(node, ast.Assign) and "loss" in ast.unparse(node)), None)
    if loss is None:
        raise NoPlace
    optimizer = "optimizer = self.optimizers()\noptimizer.zero_grad()\nself.manual_backward(loss)"
    draft.after(loss, optimizer, marked=True)
    draft.mark(step, *step.body, owner)
    return draft.finish()


def _without_backward(script: Script, update: Update) -> Planted:
    draft = Draft(script)
    draft.delete(*(one.statement for one in update.backwards))
    _mark_all(draft, update)
    return draft.finish()


def _mark_all(draft: Draft, update: Update) -> None:
    draft.mark(*update.everything, *update.loops, *update.zeros, *update.scaler_updates)
    draft.mark(*(make.statement for make in makes(draft.script) if make.name == update.optimizer))
    draft.mark(*update.unscales)
