"""Clipping and mixed precision: SW301 to SW308."""

from __future__ import annotations

import ast

from lint import additions
from lint.drafts import Draft, Planted
from lint.scripts import NoPlace, Script, called
from lint.updates import Update, only, updates
from lint.variants import plants


def _clipped(script: Script) -> Update:
    found = [update for update in updates(script) if update.clips]
    if not found:
        raise NoPlace
    return found[0]


def _whole(script: Script, statement: ast.stmt) -> ast.stmt:
    """A statement with the `if` of which it is everything."""
    around = script.parents[statement]
    return around if isinstance(around, ast.If) and len(around.body) == 1 and not around.orelse else statement


@plants("SW301", additions.clip)
def clip_before_backward(script: Script) -> Planted:
    update = _clipped(script)
    clip = _whole(script, update.clips[0])
    draft = Draft(script)
    draft.move_before(clip, update.backwards[0].statement)
    draft.delete(*update.unscales)
    draft.mark(*update.everything)
    return draft.finish(also=("SW302",))


@plants("SW301", additions.clip)
def clip_after_step(script: Script) -> Planted:
    update = _clipped(script)
    clip = _whole(script, update.clips[0])
    later = [one for one in script.blocks[update.step] if one in update.scaler_updates]
    draft = Draft(script)
    draft.move_after(clip, later[-1] if later else update.step)
    draft.mark(*update.everything)
    return draft.finish(also=("SW302",))


@plants("SW301", additions.clip)
def clip_at_the_head_of_the_round(script: Script) -> Planted:
    """Before the forward pass, beside zero_grad()."""
    update = _clipped(script)
    clip = _whole(script, update.clips[0])
    loop = update.batch_loop
    if update.unscales or not any(one in loop.body for one in update.zeros) or script.blocks[clip] is not loop.body:
        raise NoPlace
    zero = next(one for one in update.zeros if one in loop.body)
    if zero.lineno > update.backwards[0].statement.lineno:
        raise NoPlace
    draft = Draft(script)
    draft.move_after(clip, zero)
    draft.mark(*update.everything)
    return draft.finish()


@plants("SW302", additions.scaler, additions.clip)
def clip_of_scaled_gradients(script: Script) -> Planted:
    return _without_unscale(script)


@plants("SW302", additions.accumulation, additions.scaler, additions.clip)
def clip_of_scaled_gradients_in_accumulation(script: Script) -> Planted:
    return _without_unscale(script)


def _without_unscale(script: Script) -> Planted:
    update = _clipped(script)
    if not update.unscales:
        raise NoPlace
    draft = Draft(script)
    draft.delete(*update.unscales)
    draft.mark(*update.clips, update.step)
    return draft.finish()


@plants("SW303", additions.clip)
def clip_of_the_other_network(script: Script) -> Planted:
    found = updates(script)
    if len(found) < 2 or found[0].model() == found[-1].model() or not found[0].clips:
        raise NoPlace
    return _clip_of(script, found[0], found[-1].model())


@plants("SW303", additions.clip)
def clip_of_the_first_network_twice(script: Script) -> Planted:
    found = updates(script)
    if len(found) < 2 or found[0].model() == found[-1].model() or not found[-1].clips:
        raise NoPlace
    return _clip_of(script, found[-1], found[0].model())


@plants("SW303", additions.clip, additions.target_network)
def clip_of_the_target_network(script: Script) -> Planted:
    update = updates(script)[-1]
    if script.function(update.make().statement) is not update.function or not update.clips:
        raise NoPlace
    return _clip_of(script, update, "target")


def _clip_of(script: Script, update: Update, model: str) -> Planted:
    call = update.clips[0].value
    draft = Draft(script)
    draft.replace(call.args[0], f"{model}.parameters()", marked=True)
    draft.mark(update.step, *update.clips)
    return draft.finish(also=("SW301",))  # for the other network it is a clip before its backward pass


def _scaled(script: Script) -> Update:
    found = [update for update in updates(script) if update.scaler]
    if not found:
        raise NoPlace
    return found[-1]


@plants("SW305", additions.scaler)
def without_update(script: Script) -> Planted:
    update = _scaled(script)
    draft = Draft(script)
    draft.delete(*update.scaler_updates)
    draft.mark(*update.everything, *(one.step for one in updates(script)))
    return draft.finish()


@plants("SW306", additions.scaler)
def step_of_the_optimizer_in_place_of_the_scaler(script: Script) -> Planted:
    update = _scaled(script)
    draft = Draft(script)
    draft.replace(update.step, f"{update.optimizer}.step()", marked=True)
    draft.mark(*update.everything, *update.scaler_updates)
    return draft.finish(also=("SW305",))


@plants("SW306", additions.scaler)
def both_steps(script: Script) -> Planted:
    update = _scaled(script)
    draft = Draft(script)
    draft.after(update.step, f"{update.optimizer}.step()", marked=True)
    draft.mark(*update.everything)
    return draft.finish()


@plants("SW307", additions.scaler, additions.clip)
def unscale_twice_before_the_step(script: Script) -> Planted:
    update = _clipped(script)
    if not update.unscales:
        raise NoPlace
    draft = Draft(script)
    draft.after(update.clips[0], f"{update.scaler}.unscale_({update.optimizer})", marked=True)
    draft.mark(*update.unscales, update.step)
    return draft.finish()


@plants("SW307", additions.scaler, additions.clip)
def unscale_to_log_the_norm(script: Script) -> Planted:
    """Once behind the backward pass to look at the gradients, and again to clip them."""
    update = _clipped(script)
    micro = script.loops(update.last.statement)[:1] != script.loops(update.step)[:1]
    if not update.unscales or micro:
        raise NoPlace
    draft = Draft(script)
    largest = f"largest = max(p.grad.abs().max() for p in {update.model()}.parameters())"
    code = f"{update.scaler}.unscale_({update.optimizer})\n{largest}"
    draft.after(update.last.statement, code, marked=True)
    draft.mark(*update.unscales, update.step)
    return draft.finish()


@plants("SW308", additions.autocast)
def backward_under_autocast(script: Script) -> Planted:
    """The backward pass is moved to the end of the autocast block."""
    back = only(script).last
    block = script.blocks[back.statement]
    place = block.index(back.statement)
    found = [one for one in block[:place] if isinstance(one, ast.With) and _is_autocast(script, one)]
    if not found:
        raise NoPlace
    between = block[block.index(found[-1]) + 1 : place + 1]
    draft = Draft(script)
    draft.indent(between[0], between[-1], marked=True)
    draft.mark(found[-1])
    return draft.finish()


@plants("SW308", additions.autocast)
def whole_round_under_autocast(script: Script) -> Planted:
    """Everything from the autocast block to the step."""
    update = only(script)
    block = script.blocks[update.step]
    place = block.index(update.step)
    found = [one for one in block[:place] if isinstance(one, ast.With) and _is_autocast(script, one)]
    if not found or update.last.statement not in block:
        raise NoPlace
    between = block[block.index(found[-1]) + 1 : place + 1]
    draft = Draft(script)
    draft.indent(between[0], between[-1], marked=True)
    draft.mark(found[-1])
    return draft.finish()


def _is_autocast(script: Script, block: ast.With) -> bool:
    expression = block.items[0].context_expr
    if isinstance(expression, ast.Name):  # ctx = ... autocast(...)
        return any(
            isinstance(one, ast.Assign)
            and ast.unparse(one.targets[0]) == expression.id
            and "autocast" in ast.unparse(one.value)
            for one in script.statements
        )
    return isinstance(expression, ast.Call) and called(expression) in ("autocast", "autocast_mode")
