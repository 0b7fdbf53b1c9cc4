"""A literal that no optimizer or schedule is meant to be given."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from stepwell.findings import Check, Finding
from stepwell.lint.analysis import Script, Thing, argument
from stepwell.lint.analysis.relations import may_touch
from stepwell.lint.analysis.schedules import drives, is_class, of_torch
from stepwell.lint.analysis.syntax import written

CHECK = Check(
    code="SW604",
    name="implausible-constant",
    severity="error",
    certainty="certain",
    looks_for="a learning rate, momentum, beta, decay factor or warmup length that is far outside of what the method "
    "can use: Adam with lr >= 0.1 over a model, SGD with lr >= 10, momentum or betas outside of [0, 1), betas in the "
    "wrong order, a decay factor over 1, a warmup longer than the training",
    why="training diverges or stands still, mostly because of a slip: a lost exponent, or two arguments exchanged",
    instead="write the value that was meant: Adam is used with 1e-5 to 1e-2, SGD with 1e-3 to 1, betas=(0.9, 0.999)",
    silent_when="a schedule replaces the value (OneCycleLR, LambdaLR), the optimizer is over images or embeddings and "
    "no model, or its method takes such values (Rprop, LBFGS, Prodigy, D-Adaptation, Adafactor)",
    example_bad="import torch\noptimizer = torch.optim.Adam(model.parameters(), lr=1.0)",
    example_good="import torch\noptimizer = torch.optim.Adam(model.parameters(), lr=1e-3)",
    reference="https://github.com/google-research/tuning_playbook",
)
FIX = ""

_ADAM = frozenset(["Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Lion", "AdaBelief", "AdamP", "Adam8bit",
                   "AdamW8bit", "FusedAdam",
                   "PagedAdamW", "PagedAdamW8bit", "SparseAdam"])  # fmt: skip
_OWN_RATE = ("OneCycleLR", "CyclicLR", "LambdaLR")
_TEST = re.compile(r"(^|/)tests?/|(^|/)(test_[^/]*|[^/]*_test|conftest)\.py$")  # where toys train for a step or two
_RECURRENT = re.compile(r"LSTM|GRU|RNN")
_LAYER = re.compile(
    r"(Linear|Conv\d?d?|Conv|LSTM|GRU|RNN|Embedding|Attention|Transformer\w*|Block|Bottleneck|\w+Layer)$"
)
_FINDER = re.compile(r"lr_?find|find_?lr|range_?test|lr_?range", re.I)


def find(script: Script) -> Iterator[Finding]:
    seen: set[int] = set()
    if _TEST.search(script.file):
        return
    for optimizer in script.made("optimizer"):
        if optimizer.made is not None and optimizer.local is None and optimizer.sure and id(optimizer.made) not in seen:
            seen.add(id(optimizer.made))
            yield from _optimizer(script, optimizer)
    for scheduler in script.made("scheduler"):
        if scheduler.made is not None and of_torch(scheduler) and id(scheduler.made) not in seen:
            seen.add(id(scheduler.made))
            yield from _scheduler(script, scheduler)


def _optimizer(script: Script, optimizer: Thing) -> Iterator[Finding]:
    call, name = optimizer.made, optimizer.cls.rsplit(".", 1)[-1]
    assert call is not None
    lr = argument(call, 1, "lr")
    rate = _number(script, lr)
    if (
        lr is not None
        and rate is not None
        and _is_over_model(script, optimizer)
        and not _is_scheduled(script, optimizer)
    ):
        if name == "RMSprop" and rate >= 1:
            yield script.finding(CHECK, lr, f"RMSprop is given lr={rate:g} for the parameters of {_models(optimizer)}")
        elif name in _ADAM and rate >= (0.1 if _is_deep(script, optimizer) else 1):
            yield script.finding(CHECK, lr, f"{name} is given lr={rate:g} for the parameters of {_models(optimizer)}")
        elif name == "SGD" and rate >= (100 if _RECURRENT.search(script.source) else 10):  # AWD-LSTM takes 30
            yield script.finding(CHECK, lr, f"SGD is given lr={rate:g} for the parameters of {_models(optimizer)}")
    if lr is not None and rate is not None and rate < 0:
        yield script.finding(CHECK, lr, f"{name} is given the negative lr={rate:g}")
    momentum = {"SGD": argument(call, 2, "momentum"), "RMSprop": argument(call, 5, "momentum")}.get(name)
    value = _number(script, momentum)
    if momentum is not None and value is not None and not 0 <= value < 1:
        yield script.finding(CHECK, momentum, f"{name} is given momentum={value:g}, outside of [0, 1)")
    betas = argument(call, 2, "betas") if name in _ADAM else None
    pair = script.literal(betas)
    if betas is None or not isinstance(pair, tuple) or len(pair) != 2:
        return
    if not all(isinstance(one, (int, float)) for one in pair):
        return
    first, second = pair
    if not (0 <= first < 1 and 0 <= second < 1):
        yield script.finding(CHECK, betas, f"{name} is given betas=({first:g}, {second:g}), outside of [0, 1)")
    elif first > second and first >= 0.98:
        yield script.finding(CHECK, betas, f"{name} is given betas=({first:g}, {second:g}), which look exchanged")


def _number(script: Script, node: ast.expr | None) -> float | None:
    value = script.literal(node)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _models(optimizer: Thing) -> str:
    return ", ".join(one.name or "a model" for one in optimizer.of[:2])


def _is_over_model(script: Script, optimizer: Thing) -> bool:
    """Whether what it updates is a model of more than a toy."""
    return bool(optimizer.of) and all(
        one.kind == "model" and not is_class(one, "Linear", "Embedding") for one in optimizer.of
    )


def _is_deep(script: Script, optimizer: Thing) -> bool:
    """Whether a model is known to have more than one layer or two: linear models and toys are trained with
    0.1 and more."""
    if "Toy" in script.source:
        return False
    for one in optimizer.of:
        if one.local is not None:
            start = one.local.method("__init__")
            made = [inner for inner in ast.walk(start) if isinstance(inner, ast.Call)] if start is not None else []
            if sum(bool(_LAYER.search(written(inner.func))) for inner in made) < 3:
                return False
        elif one.made is not None and is_class(one, "Sequential"):
            made = [inner for inner in ast.walk(one.made) if isinstance(inner, ast.Call)]
            if sum(bool(_LAYER.search(written(inner.func))) for inner in made) < 3:
                return False
        elif re.search(
            r"toy|linear|regress|simple|dummy|boring", f"{one.name} {written(one.made) if one.made else ''}", re.I
        ):
            return False
    return True


def _is_scheduled(script: Script, optimizer: Thing) -> bool:
    """Whether something may set another learning rate."""
    for scheduler in script.made("scheduler"):
        if drives(scheduler, optimizer) is not False and (
            not of_torch(scheduler) or is_class(scheduler, *_OWN_RATE) or "get_" in scheduler.cls
        ):
            return True
    for event in script.events:
        scheduler_of = event.target if event.kind == "schedule" else None
        if scheduler_of is not None and not of_torch(scheduler_of) and drives(scheduler_of, optimizer) is not False:
            return True
        if may_touch(event, optimizer) and not event.name.rsplit(".", 1)[-1].startswith(("prepare", "initialize")):
            return True
        if (
            event.kind == "make"
            and event.target is not None
            and event.target.kind == "instance"
            and event.call is not None
        ):
            given = [*event.call.args, *(one.value for one in event.call.keywords)]
            if any(written(one) == optimizer.name for one in given):
                return True
    return bool(re.search(r"\[['\"]lr['\"]\]\s*[*+-]?=[^=]", script.source))


def _scheduler(script: Script, scheduler: Thing) -> Iterator[Finding]:
    call, name = scheduler.made, scheduler.cls.rsplit(".", 1)[-1]
    assert call is not None
    position = {"StepLR": 2, "MultiStepLR": 2, "ExponentialLR": 1}.get(name)
    if position is not None and not _FINDER.search(script.source):
        gamma = argument(call, position, "gamma")
        value = _number(script, gamma)
        if gamma is not None and value is not None and (value > 1 or value < 0):
            yield script.finding(CHECK, gamma, f"{name} is given gamma={value:g}: the learning rate grows" if value > 1
                                 else f"{name} is given the negative gamma={value:g}")  # fmt: skip
    if name == "ReduceLROnPlateau":
        factor = argument(call, 2, "factor")
        value = _number(script, factor)
        if factor is not None and value is not None and value >= 1:
            yield script.finding(CHECK, factor, f"ReduceLROnPlateau is given factor={value:g}, and nothing is reduced")
    if name.startswith("get_") and "warmup" in name and "constant" not in name:
        warmup, total = argument(call, 1, "num_warmup_steps"), argument(call, 2, "num_training_steps")
        short, long = _number(script, warmup), _number(script, total)
        if warmup is not None and short is not None and long is not None and short > long:
            yield script.finding(
                CHECK, warmup, f"the warmup of {short:g} steps is longer than the training of {long:g}"
            )


_HEAD = "\nimport torch\nimport torch.nn as nn\nfrom torch import optim\n"
BAD = (
    CHECK.example_bad + "  # expect",
    _HEAD
    + """
LR = 0.5
class Trainer:
    def __init__(self, model):
        self.model = model
        self.optimizer = optim.AdamW(self.model.parameters(), lr=LR, weight_decay=0.01)  # expect
""",
    _HEAD + "optimizer = optim.SGD(net.parameters(), lr=100, momentum=0.9)  # expect\n",
    _HEAD + "optimizer = optim.SGD(net.parameters(), lr=0.1, momentum=9)  # expect\n",
    _HEAD
    + "optimizer_G = optim.Adam(G.parameters(), lr=2e-4, betas=(0.999, 0.5))  # expect\n"
    + "optimizer_D = optim.Adam(D.parameters(), lr=2e-4, betas=(0.5, 9.99))  # expect\n",
    _HEAD
    + """
class Model(pl.LightningModule):
    def configure_optimizers(self):
        optimizer = optim.Adam(self.parameters(), 1e-3)
        scheduler = optim.lr_scheduler.StepLR(optimizer, step_size=10, gamma=10)  # expect
        return [optimizer], [scheduler]
""",
    """
from transformers import get_linear_schedule_with_warmup
scheduler = get_linear_schedule_with_warmup(optimizer, num_warmup_steps=1000, num_training_steps=100)  # expect
""",
)
GOOD = (
    CHECK.example_good,
    _HEAD
    + """
optimizer = optim.Adam(model.parameters(), lr=1, betas=(0.9, 0.98), eps=1e-9)
scheduler = optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.04 * min((step + 1) ** -0.5, step * 4000 ** -1.5))
""",
    _HEAD + "image = torch.rand(1, 3, 9, 9, requires_grad=True)\noptimizer = optim.Adam([image], lr=10)\n",
    "from prodigyopt import Prodigy\noptimizer = Prodigy(model.parameters(), lr=1.0)\n",
    _HEAD + "optimizer = optim.LBFGS(model.parameters(), lr=1)\noptimizer2 = optim.Rprop(model.parameters(), lr=0.5)\n",
    _HEAD + "optimizer = optim.Adam(model.parameters(), lr=1.0)\nscheduler = NoamScheduler(optimizer, 512, 4000)\n",
    _HEAD
    + "optimizer = optim.Adam(critic.parameters(), lr=1e-4, betas=(0.0, 0.9))\n"
    + "other = optim.SGD(actor.parameters(), lr=args.lr, momentum=0.9)\n",
    _HEAD
    + "def lr_find(model):\n    optimizer = optim.SGD(model.parameters(), lr=1e-6)\n"
    + "    return optim.lr_scheduler.ExponentialLR(optimizer, gamma=1.2)\n",
)
