"""Correct additions to a correct script, so that more mistakes find a place: a scheduler, a clip, a scaler ...

Each takes a source and returns the source with the addition. A script in which the thing is already stays as it is.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import NoReturn

from lint.drafts import Draft
from lint.scripts import NoPlace, Script, called, receiver
from lint.updates import (
    Update,
    assigned_before,
    epoch_loop,
    epochs,
    forward,
    lightning,
    loader,
    makes,
    method,
    only,
    scheduler_steps,
    schedulers,
    updates,
)  # fmt: skip


def scheduler(source: str) -> str:
    """A scheduler that is stepped at the end of each epoch, or after each update of an endless loop."""
    script = Script(source)
    if schedulers(script):
        return source if scheduler_steps(script) else _no_place()
    update = updates(script)[0]
    make = _make_like(update)
    if "param_group" in source or make is None:
        raise NoPlace
    name = "self.scheduler" if update.optimizer.startswith("self.") else f"scheduler{update.optimizer[9:]}"
    draft = Draft(script)
    draft.after(make, f"{name} = torch.optim.lr_scheduler.StepLR({update.optimizer}, step_size=30, gamma=0.1)")
    _at_epoch_end(draft, update, f"{name}.step()")
    draft.head("import torch")
    return draft.text()


def cosine(source: str) -> str:
    """A cosine schedule over all epochs, stepped once an epoch."""
    script = Script(source)
    update = updates(script)[0]
    loop = epoch_loop(update)
    made = schedulers(script)
    count = epochs(loop)
    draft = Draft(script)
    if made:
        steps = scheduler_steps(script, made[0].name)
        if len(made) > 1 or not steps or steps[0] not in loop.body:
            raise NoPlace
        draft.replace(made[0].call, f"torch.optim.lr_scheduler.CosineAnnealingLR({update.optimizer}, T_max={count})")
    else:
        make = _make_like(update) or _no_place()
        name = "self.scheduler" if update.optimizer.startswith("self.") else "scheduler"
        line = f"{name} = torch.optim.lr_scheduler.CosineAnnealingLR({update.optimizer}, T_max={count})"
        draft.after(make, line)
        _at_epoch_end(draft, update, f"{name}.step()")
    draft.head("import torch")
    return draft.text()


def plateau(metric: str, mode: str) -> Callable[[str], str]:
    """ReduceLROnPlateau, stepped with the metric of a validation in another file."""

    def add(source: str) -> str:
        script = Script(source)
        update = updates(script)[0]
        loop = epoch_loop(update)
        made = schedulers(script)
        keywords = f', mode="{mode}"' if mode != "min" else ""
        new = f"torch.optim.lr_scheduler.ReduceLROnPlateau({update.optimizer}{keywords})"
        draft = Draft(script)
        if made:
            steps = scheduler_steps(script, made[0].name)
            if len(made) > 1 or not steps:
                raise NoPlace
            draft.replace(made[0].call, new)
            draft.delete(*steps)
        else:
            make = _make_like(update) or _no_place()
            draft.after(make, f"scheduler = {new}")
        name = made[0].name if made else "scheduler"
        draft.after(loop.body[-1], f"{metric} = evaluate({update.model()})\n{name}.step({metric})")
        draft.head("import torch")
        draft.head("from evaluation import evaluate")
        return draft.text()

    return add


def lightning_scheduler(source: str) -> str:
    """Lightning's configure_optimizers() returns a scheduler too."""
    script = Script(source)
    configure = method(lightning(script)[0], "configure_optimizers")
    last = configure.body[-1] if configure else None
    if not (isinstance(last, ast.Return) and isinstance(last.value, ast.Call)):
        raise NoPlace
    draft = Draft(script)
    draft.replace(
        last,
        f"optimizer = {script.text(last.value)}\n{script.indentation(last)}"
        "scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=10)\n"
        f"{script.indentation(last)}return [optimizer], [scheduler]",
    )
    draft.head("import torch")
    return draft.text()


def clip(source: str) -> str:
    """The gradients are clipped before every step, those of a scaler after unscale_()."""
    script = Script(source)
    draft = Draft(script)
    found = updates(script)
    if all(update.clips for update in found):
        return source
    for update in found:
        if update.clips:
            continue
        lines = [f"torch.nn.utils.clip_grad_norm_({update.model()}.parameters(), 1.0)"]
        if update.scaler and not update.unscales:
            lines.insert(0, f"{update.scaler}.unscale_({update.optimizer})")
        if update.last.kind == "accelerator" and "accelerator" in receiver(update.last.call):
            lines = [f"{receiver(update.last.call)}.clip_grad_norm_({update.model()}.parameters(), 1.0)"]
        draft.before(update.step, "\n".join(lines))
    draft.head("import torch")
    return draft.text()


def scaler(source: str) -> str:
    """A GradScaler around the updates of a script that has none."""
    script = Script(source)
    found = updates(script)
    if any(update.scaler for update in found):
        return source
    blocks = {id(script.blocks[update.step]) for update in found}
    if len(blocks) > 1 or any(one.kind != "plain" for update in found for one in update.backwards):
        raise NoPlace
    make = _make_like(found[0]) or _no_place()
    name = "self.scaler" if found[0].optimizer.startswith("self.") else "scaler"
    local = make is not None and script.function(make) is found[0].function
    if not local and name == "scaler":
        raise NoPlace
    draft = Draft(script)
    draft.before(make, f'{name} = torch.amp.GradScaler("cuda")')
    for update in found:
        for one in update.backwards:
            draft.replace(one.loss, f"{name}.scale({script.text(one.loss)})")
        for one in update.clips:
            draft.before(one, f"{name}.unscale_({update.optimizer})")
        last = f"\n{script.indentation(update.step)}{name}.update()" if update is found[-1] else ""
        draft.replace(update.call, f"{name}.step({update.optimizer}){last}")
    draft.head("import torch")
    return draft.text()


def autocast(source: str) -> str:
    """The forward pass and the loss stand under autocast."""
    script = Script(source)
    if "autocast(" in source:
        return source
    update = only(script)
    first = forward(update)
    last = assigned_before(script, ast.unparse(update.last.loss), update.last.statement)
    if script.blocks[first] is not script.blocks[last] or first.lineno > last.lineno:
        raise NoPlace
    draft = Draft(script)
    draft.indent(first, last, 'with torch.autocast("cuda", dtype=torch.bfloat16):')
    draft.head("import torch")
    return draft.text()


def accumulation(source: str) -> str:
    """Four batches an update: the loss divided, the step at every fourth batch and at the last one."""
    script = Script(source)
    update = only(script)
    if "accumulation" in source:
        return source  # the script has its own
    loop = update.batch_loop
    if not (isinstance(loop, ast.For) and isinstance(loop.iter, ast.Call) and called(loop.iter) == "enumerate"):
        raise NoPlace
    if update.scaler or len(update.backwards) > 1 or not isinstance(loop.target, ast.Tuple) or len(loop.iter.args) > 1:
        raise NoPlace
    if script.blocks[update.step] is not loop.body or any(one in loop.body for one in scheduler_steps(script)):
        raise NoPlace
    index, loss = ast.unparse(loop.target.elts[0]), script.text(update.last.loss)
    first = min([update.step, *update.clips], key=lambda one: one.lineno)
    draft = Draft(script)
    draft.delete(*update.zeros)
    draft.before(update.last.statement, f"{loss} = {loss} / 4  # four batches an update")
    zero = f"\n{script.indentation(update.step)}    {update.optimizer}.zero_grad()"
    header = f"if ({index} + 1) % 4 == 0 or {index} + 1 == len({loader(loop)}):"
    start, end = script.whole_lines(first)[0], script.whole_lines(update.step)[1]
    code = "".join("    " + line for line in script.source[start:end].splitlines(keepends=True))
    draft.edits.append((start, end, f"{script.indentation(first)}{header}\n{code.rstrip()}{zero}\n", False))
    return draft.text()


def evaluation(source: str) -> str:
    """After each epoch the model is evaluated in eval mode, and goes back to training mode."""
    script = Script(source)
    update = updates(script)[-1]
    loop = epoch_loop(update)
    model, over = update.model(), loader(update.batch_loop)
    if script.calls("eval") and any(script.loops(one) for one, _ in script.calls("eval")):
        raise NoPlace
    if script.function(loop) is not update.function:
        raise NoPlace
    draft = Draft(script)
    draft.after(
        loop.body[-1],
        f"{model}.eval()\nwith torch.no_grad():\n    for batch in valid_loader:\n"
        f"        log_prediction({model}(batch[0]))\n{model}.train()",
    )
    draft.head("import torch")
    draft.head(f"from data import log_prediction, valid_loader  # beside {over}")
    return draft.text()


def resume(source: str) -> str:
    """A checkpoint of the models and the optimizers after each epoch, and all loaded before the first one."""
    script = Script(source)
    if "load_state_dict" in source:
        return source
    found = updates(script)
    loop = epoch_loop(found[0])
    if any(script.function(loop) is not script.function(update.make().statement) for update in found):
        raise NoPlace
    names = list(dict.fromkeys(name for update in found for name in (update.model(), update.optimizer)))
    draft = Draft(script)
    loads = [f'{name}.load_state_dict(checkpoint["{name}"])' for name in names]
    draft.before(loop, "\n".join(['checkpoint = torch.load("last.pt")', *loads]))
    saved = ", ".join(f'"{name}": {name}.state_dict()' for name in names)
    draft.after(loop.body[-1], f'torch.save({{{saved}}}, "last.pt")')
    draft.head("import torch")
    return draft.text()


def sampler(source: str) -> str:
    """A DistributedSampler for the training loader, told the epoch."""
    script = Script(source)
    update = updates(script)[0]
    loop = epoch_loop(update)
    name = loader(update.batch_loop)
    made = next((one for one in makes(script, ("DataLoader",)) if one.name == name), None)
    if made is None or not (isinstance(loop, ast.For) and isinstance(loop.target, ast.Name)) or "prepare(" in source:
        raise NoPlace
    data = next((one.value for one in made.call.keywords if one.arg == "dataset"), None)
    data = made.call.args[0] if made.call.args else data
    shuffle = next((one for one in made.call.keywords if one.arg == "shuffle"), None)
    if not isinstance(data, (ast.Name, ast.Call)) or shuffle is None:
        raise NoPlace
    draft = Draft(script)
    draft.replace(shuffle, "sampler=train_sampler")
    if isinstance(data, ast.Name):
        line = f"train_sampler = torch.utils.data.distributed.DistributedSampler({data.id})"
        draft.before(made.statement, line)
    else:
        text = script.text(data)
        draft.replace(data, "train_dataset")
        line = "train_sampler = torch.utils.data.distributed.DistributedSampler(train_dataset)"
        draft.before(made.statement, f"train_dataset = {ast.unparse(ast.parse(text, mode='eval'))}\n{line}")
    draft.before(loop.body[0], f"train_sampler.set_epoch({loop.target.id})")
    draft.head("import torch")
    return draft.text()


def target_network(source: str) -> str:
    """A copy of the model, as a target network has it, that is set to the model after each epoch."""
    script = Script(source)
    update = updates(script)[-1]
    make = update.make()
    model = make.modules[0] if make.modules else _no_place()
    loop = epoch_loop(update)
    if "." in model or "deepcopy" in source or script.function(make.statement) is not script.function(loop):
        raise NoPlace
    draft = Draft(script)
    draft.before(make.statement, f"target = copy.deepcopy({model})")
    draft.after(loop.body[-1], f"target.load_state_dict({model}.state_dict())")
    draft.head("import copy")
    return draft.text()


def second_module(source: str) -> str:
    """A further module behind the model, whose parameters the optimizer has too."""
    script = Script(source)
    update = only(script)
    make, first = update.make(), forward(update)
    if script.function(make.statement) is not update.function or len(make.modules) != 1 or "prepare(" in source:
        raise NoPlace
    if not isinstance(first.targets[0], ast.Name):
        raise NoPlace  # the model returns several things
    draft = Draft(script)
    draft.before(make.statement, "projection = torch.nn.Linear(10, 10)")
    text = script.text(make.parameters)
    draft.replace(make.parameters, f"list({text}) + list(projection.parameters())")
    draft.replace(first.value, f"projection({script.text(first.value)})")
    draft.head("import torch")
    return draft.text()


def new_head(source: str) -> str:
    """The last layer of the model is replaced before the optimizer is made."""
    script = Script(source)
    make = makes(script)[0] if makes(script) else _no_place()
    model = make.modules[0] if make.modules else _no_place()
    if model == "self":
        raise NoPlace
    draft = Draft(script)
    draft.before(make.statement, f"{model}.fc = torch.nn.Linear(128, 10)")
    draft.head("import torch")
    return draft.text()


def _make_like(update: Update) -> ast.stmt | None:
    """The statement that makes the optimizer, or gets it from a method of the model."""
    script = update.script
    for statement in script.statements:
        made = isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Call)
        if made and ast.unparse(statement.targets[0]) == update.optimizer:
            return statement
    return None


def _at_epoch_end(draft: Draft, update: Update, line: str) -> None:
    script = update.script
    make = _make_like(update)
    try:
        loop = epoch_loop(update)
    except NoPlace:
        if not isinstance(update.batch_loop, ast.While):
            raise
        draft.after(update.step, line)  # an endless loop over batches
        return
    if not update.optimizer.startswith("self.") and make and script.function(make) is not script.function(loop):
        raise NoPlace
    draft.after(loop.body[-1], line)


def _no_place() -> NoReturn:
    raise NoPlace
