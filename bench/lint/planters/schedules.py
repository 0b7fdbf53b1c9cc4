"""Schedulers in the wrong place, never stepped, or with another horizon: SW201 to SW208."""

from __future__ import annotations

import ast

from lint import additions
from lint.drafts import Draft, Planted
from lint.scripts import NoPlace, Script
from lint.updates import (
    Make,
    epoch_loop,
    epochs,
    lightning,
    loader,
    method,
    scheduler_steps,
    schedulers,
    updates,
)  # fmt: skip
from lint.variants import plants


def _stepped(script: Script) -> ast.stmt:
    """The statement that steps a scheduler, with an `if scheduler is not None` around it."""
    found = scheduler_steps(script)
    if not found:
        raise NoPlace
    around = script.parents[found[0]]
    whole = around if isinstance(around, ast.If) and len(around.body) == 1 and not around.orelse else found[0]
    return whole


@plants("SW201", additions.scheduler)
def scheduler_at_the_head_of_its_block(script: Script) -> Planted:
    statement = _stepped(script)
    block = script.blocks[statement]
    place = next(one for one in block if not (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant)))
    if place is statement:
        raise NoPlace
    draft = Draft(script)
    draft.move_before(statement, place)
    draft.mark(*(update.step for update in updates(script)))
    return draft.finish()


@plants("SW201", additions.scheduler)
def scheduler_before_the_training(script: Script) -> Planted:
    """Directly before the statement that trains: the batch loop, the call of the training function, or the step."""
    statement = _stepped(script)
    block = script.blocks[statement]
    update = updates(script)[0]
    trains = getattr(update.function, "name", "")
    for place in block:
        inside = any(node is update.step for node in ast.walk(place))
        if inside or any(isinstance(node, ast.Name) and trains and node.id == trains for node in ast.walk(place)):
            if place.lineno > statement.lineno:
                raise NoPlace
            draft = Draft(script)
            draft.move_before(statement, place)
            draft.mark(*(one.step for one in updates(script)))
            return draft.finish()
    raise NoPlace


def _made(script: Script) -> Make:
    found = [
        make for make in schedulers(script) if not any(isinstance(one, ast.Return) for one in script.around(make.call))
    ]
    if not found:
        raise NoPlace
    return found[0]


@plants("SW202", additions.scheduler)
def scheduler_step_forgotten(script: Script) -> Planted:
    make = _made(script)
    draft = Draft(script)
    draft.delete(*scheduler_steps(script, make.name))
    draft.mark(make.statement)
    return draft.finish()


@plants("SW202", additions.scheduler)
def scheduler_step_without_parentheses(script: Script) -> Planted:
    make = _made(script)
    steps = scheduler_steps(script, make.name)
    draft = Draft(script)
    for one in steps:
        draft.replace(one.value, f"{make.name}.step")
    draft.mark(make.statement, *steps)
    return draft.finish()


@plants("SW202", additions.lightning_scheduler)
def scheduler_not_returned(script: Script) -> Planted:
    configure = method(lightning(script)[0], "configure_optimizers")
    last = configure.body[-1] if configure else None
    if not isinstance(last, ast.Return):
        raise NoPlace
    draft = Draft(script)
    draft.replace(last, "return optimizer")
    draft.mark(configure, *configure.body)
    return draft.finish()


@plants("SW203", additions.cosine)
def horizon_in_batches_steps_in_epochs(script: Script) -> Planted:
    make = _made(script)
    update = updates(script)[0]
    batches = loader(update.batch_loop)
    keyword = next((one for one in make.call.keywords if one.arg == "T_max"), None)
    if keyword is None:
        raise NoPlace
    draft = Draft(script)
    draft.replace(keyword.value, f"{script.text(keyword.value)} * len({batches})", marked=True)
    draft.mark(make.statement, *scheduler_steps(script, make.name))
    return draft.finish()


@plants("SW203", additions.cosine)
def horizon_in_epochs_steps_in_batches(script: Script) -> Planted:
    make = _made(script)
    update = updates(script)[0]
    steps = scheduler_steps(script, make.name)
    if script.function(make.statement) is not update.function or len(steps) != 1:
        raise NoPlace
    epochs(epoch_loop(update))
    draft = Draft(script)
    draft.move_after(steps[0], update.step)
    draft.mark(make.statement)
    return draft.finish()


@plants("SW203", additions.scheduler)
def one_cycle_stepped_once_an_epoch(script: Script) -> Planted:
    make = _made(script)
    update = updates(script)[0]
    loop = epoch_loop(update)
    steps = scheduler_steps(script, make.name)
    draft = Draft(script)
    if make.kind == "OneCycleLR" and steps and script.blocks[steps[0]] is update.batch_loop.body:
        draft.move_after(steps[0], loop.body[-1])
    else:
        batches, count = loader(update.batch_loop), epochs(loop)
        if not steps or steps[0] not in loop.body:
            raise NoPlace
        new = f"OneCycleLR({update.optimizer}, max_lr=0.1, steps_per_epoch=len({batches}), epochs={count})"
        draft.replace(make.call, f"torch.optim.lr_scheduler.{new}", marked=True)
        draft.head("import torch")
        draft.mark(*steps)
    draft.mark(make.statement)
    return draft.finish()


@plants("SW204", additions.plateau("val_loss", "min"))
def plateau_step_without_metric(script: Script) -> Planted:
    steps = scheduler_steps(script, _made(script).name)
    draft = Draft(script)
    draft.replace(steps[0].value.args[0], "")
    draft.mark(steps[0])
    return draft.finish()


@plants("SW205", additions.plateau("val_accuracy", "max"))
def accuracy_with_the_default_mode(script: Script) -> Planted:
    return _mode(script, "")


@plants("SW205", additions.plateau("val_acc", "max"))
def accuracy_with_mode_min(script: Script) -> Planted:
    return _mode(script, ', mode="min"')


@plants("SW205", additions.plateau("val_loss", "min"))
def loss_with_mode_max(script: Script) -> Planted:
    return _mode(script, ', mode="max", factor=0.5')


def _mode(script: Script, keywords: str) -> Planted:
    make = _made(script)
    draft = Draft(script)
    new = f"torch.optim.lr_scheduler.ReduceLROnPlateau({script.text(make.call.args[0])}{keywords})"
    draft.replace(make.call, new, marked=True)
    draft.mark(make.statement, *scheduler_steps(script, make.name))
    return draft.finish()


@plants("SW206", additions.scheduler)
def step_with_the_epoch(script: Script) -> Planted:
    make = _made(script)
    step = scheduler_steps(script, make.name)[0]
    loop = next(
        (one for one in script.loops(step) if isinstance(one, ast.For) and isinstance(one.target, ast.Name)), None
    )
    if loop is None:
        raise NoPlace
    draft = Draft(script)
    draft.append_argument(step.value, loop.target.id)
    draft.mark(step)
    return draft.finish()


@plants("SW207", additions.scheduler)
def get_lr_printed(script: Script) -> Planted:
    return _get_lr(script, 'print("lr", {name}.get_lr()[0])')


@plants("SW207", additions.scheduler)
def get_lr_assigned(script: Script) -> Planted:
    return _get_lr(script, "current_lr = {name}.get_lr()\nprint(current_lr)")


def _get_lr(script: Script, code: str) -> Planted:
    make = _made(script)
    step = scheduler_steps(script, make.name)[0]
    draft = Draft(script)
    draft.after(step, code.format(name=make.name), marked=True)
    return draft.finish()


@plants("SW208")
def optimizer_made_again_in_every_epoch(script: Script) -> Planted:
    return _rebuilt(script, -1, moved=False)


@plants("SW208")
def optimizer_made_in_the_epoch_loop(script: Script) -> Planted:
    return _rebuilt(script, -1, moved=True)


@plants("SW208")
def optimizer_made_in_the_batch_loop(script: Script) -> Planted:
    return _rebuilt(script, 0, moved=True)


def _rebuilt(script: Script, depth: int, moved: bool) -> Planted:
    update = updates(script)[0]
    make = update.make()
    loop = epoch_loop(update) if depth else update.batch_loop
    if script.function(make.statement) is not script.function(loop) or script.loops(make.statement):
        raise NoPlace
    used = [
        node
        for node in ast.walk(script.function(loop))
        if isinstance(node, (ast.Name, ast.Attribute))
        and ast.unparse(node) == make.name
        and (make.statement.end_lineno or 0) < node.lineno < loop.lineno
    ]
    if (used and moved) or "prepare(" in script.source:
        raise NoPlace
    draft = Draft(script)
    draft.before(loop.body[0], draft.code(make.statement), marked=True)
    if moved:
        draft.delete(make.statement)
    draft.mark(loop, make.statement)
    return draft.finish()
