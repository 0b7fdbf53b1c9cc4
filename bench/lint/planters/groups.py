"""Parameter groups, values and old names: SW601 to SW607."""

from __future__ import annotations

import ast

from lint import additions
from lint.drafts import Draft, Planted
from lint.scripts import NoPlace, Script, called, receiver
from lint.updates import Make, lightning, makes, method, modules, only, updates
from lint.variants import plants


def _make(script: Script) -> Make:
    found = makes(script)
    if not found:
        for call in _returned(script):  # Lightning: `return torch.optim.Adam(...)`
            statement = script.statement(call)
            return Make(statement, call, "", called(call))
        raise NoPlace
    return found[0]


def _returned(script: Script) -> list[ast.Call]:
    configure = method(lightning(script)[0], "configure_optimizers")
    last = configure.body[-1] if configure else None
    return [last.value] if isinstance(last, ast.Return) and isinstance(last.value, ast.Call) else []


def _part(script: Script, make: Make) -> str:
    """A part of the model of an optimizer: a layer that its class makes in __init__()."""
    module = make.modules[0] if make.modules else ""
    for owner in modules(script):
        init = method(owner, "__init__")
        made = any(
            isinstance(one, ast.Assign)
            and ast.unparse(one.targets[0]) == module
            and owner.name in ast.unparse(one.value)
            for one in script.statements
        )
        if init is None or not (made or module == "self"):
            continue
        for one in init.body:
            if isinstance(one, ast.Assign) and isinstance(one.value, ast.Call) and "nn." in ast.unparse(one.value.func):
                return f"{module}.{ast.unparse(one.targets[0]).removeprefix('self.')}"
    if any(called(call) == "get_classifier" for call in script.all_calls("get_classifier")):
        return f"{module}.get_classifier()"
    raise NoPlace


@plants("SW601")
def a_part_in_a_group_of_its_own_too(script: Script) -> Planted:
    make = _make(script)
    return _groups(
        script, make, '[{{"params": {all}}}, {{"params": {part}.parameters(), "lr": 1e-4}}]', _part(script, make)
    )


@plants("SW601")
def a_part_added_to_the_list(script: Script) -> Planted:
    make = _make(script)
    return _groups(script, make, "list({all}) + list({part}.parameters())", _part(script, make))


@plants("SW601")
def all_parameters_twice(script: Script) -> Planted:
    make = _make(script)
    if not make.modules:
        raise NoPlace
    return _groups(script, make, '[{{"params": {all}}}, {{"params": {all}, "weight_decay": 0.0}}]', "")


def _groups(script: Script, make: Make, form: str, part: str) -> Planted:
    draft = Draft(script)
    draft.replace(make.parameters, form.format(all=script.text(make.parameters), part=part), marked=True)
    draft.mark(make.statement)
    return draft.finish()


@plants("SW602", additions.second_module)
def second_module_forgotten(script: Script) -> Planted:
    make = makes(script)[0]
    draft = Draft(script)
    draft.replace(make.parameters, f"{make.modules[0]}.parameters()", marked=True)
    draft.mark(make.statement)
    draft.mark(*(one for one in script.statements if "projection" in ast.unparse(one) and not hasattr(one, "body")))
    return draft.finish()


@plants("SW602")
def one_part_of_a_lightning_module(script: Script) -> Planted:
    owner = lightning(script)[0]
    init, calls = method(owner, "__init__"), method(owner, "forward")
    returned = _returned(script)
    if init is None or calls is None or not returned or ast.unparse(returned[0].args[0]) != "self.parameters()":
        raise NoPlace
    used = ast.unparse(calls)
    parts = [
        ast.unparse(one.targets[0])
        for one in init.body
        if isinstance(one, ast.Assign) and "nn." in ast.unparse(one.value) and f"{ast.unparse(one.targets[0])}(" in used
    ]
    if len(parts) < 2:
        raise NoPlace
    draft = Draft(script)
    draft.replace(returned[0].args[0], f"{parts[0]}.parameters()", marked=True)
    draft.mark(owner, *init.body, *calls.body, script.statement(returned[0]))
    return draft.finish()


@plants("SW602")
def both_optimizers_of_one_network(script: Script) -> Planted:
    found = updates(script)
    if len(found) < 2:
        raise NoPlace
    first, last = found[0].make(), found[-1].make()
    if not first.modules or not last.modules or first.modules[0] == last.modules[0]:
        raise NoPlace
    draft = Draft(script)
    draft.replace(last.parameters, script.text(first.parameters), marked=True)
    draft.mark(first.statement, last.statement, *(one.step for one in found))
    draft.mark(*(one for one in script.statements if ast.unparse(one).startswith(f"{last.modules[0]} =")))
    return draft.finish(also=("SW601",))


@plants("SW603", additions.new_head)
def head_replaced_after_the_optimizer(script: Script) -> Planted:
    make = makes(script)[0]
    heads = [
        one for one in script.statements if isinstance(one, ast.Assign) and ast.unparse(one.targets[0]).endswith(".fc")
    ]
    heads = [one for one in heads if script.blocks[one] is script.blocks[make.statement]]
    if not heads:
        raise NoPlace
    draft = Draft(script)
    draft.move_after(heads[-1], make.statement)
    draft.mark(make.statement)
    return draft.finish()


@plants("SW604")
def learning_rate_of_one(script: Script) -> Planted:
    make = _make(script)
    if make.kind == "Adadelta" or "OneCycleLR(" in script.source:  # which sets the rate itself
        raise NoPlace
    return _constant(script, make, "lr", "100.0" if make.kind == "SGD" else "1.0")


@plants("SW604")
def betas_swapped(script: Script) -> Planted:
    make = _make(script)
    if not make.kind.endswith(("Adam", "AdamW")):
        raise NoPlace
    return _constant(script, make, "betas", "(0.999, 0.9)")


@plants("SW604")
def momentum_without_its_point(script: Script) -> Planted:
    make = _make(script)
    if make.kind != "SGD":
        raise NoPlace
    return _constant(script, make, "momentum", "9")


@plants("SW604", additions.scheduler)
def gamma_above_one(script: Script) -> Planted:
    for make in makes(script, ("StepLR", "ExponentialLR", "MultiStepLR")):
        return _constant(script, make, "gamma", "1.5")
    raise NoPlace


def _constant(script: Script, make: Make, name: str, value: str) -> Planted:
    draft = Draft(script)
    given = next((one for one in make.call.keywords if one.arg == name), None)
    if given is not None:
        draft.replace(given.value, value, marked=True)
    elif any(one.arg is None for one in make.call.keywords) or len(make.call.args) > 1:
        raise NoPlace
    else:
        draft.append_argument(make.call, f"{name}={value}")
    draft.mark(make.statement)
    return draft.finish()


@plants("SW606", additions.clip)
def clip_grad_norm_without_underscore(script: Script) -> Planted:
    for call in script.all_calls("clip_grad_norm_"):
        if "nn.utils" in receiver(call):
            draft = Draft(script)
            draft.replace(call.func, f"{receiver(call)}.clip_grad_norm", marked=True)
            return draft.finish()
    raise NoPlace


@plants("SW606")
def data_zero(script: Script) -> Planted:
    """`loss.data[0]`, as before torch 0.4."""
    for call in script.all_calls("item"):
        if "loss" in receiver(call).lower() and isinstance(call.func.value, (ast.Name, ast.Attribute)):
            draft = Draft(script)
            draft.replace(call, f"{receiver(call)}.data[0]", marked=True)
            draft.mark(script.statement(call))
            return draft.finish()
    raise NoPlace


@plants("SW607", additions.scaler)
def scaler_of_torch_cuda_amp(script: Script) -> Planted:
    only(script)
    for call in script.all_calls("GradScaler"):
        if "cuda" not in ast.unparse(call.func):
            draft = Draft(script)
            enabled = [script.text(one) for one in call.keywords if one.arg == "enabled"]
            draft.replace(call, f"torch.cuda.amp.GradScaler({', '.join(enabled)})", marked=True)
            draft.head("import torch")
            return draft.finish()
    raise NoPlace
