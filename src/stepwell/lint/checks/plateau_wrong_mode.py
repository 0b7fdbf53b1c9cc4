"""ReduceLROnPlateau that waits for an accuracy to fall, or for a loss to rise."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from stepwell.findings import Check, Finding
from stepwell.lint.analysis import Event, Script, argument
from stepwell.lint.analysis.schedules import is_class, of_torch, receiver

CHECK = Check(
    code="SW205",
    name="plateau-wrong-mode",
    severity="error",
    certainty="certain",
    looks_for="ReduceLROnPlateau with mode='min' (the default) watches an accuracy, or with mode='max' a loss",
    why="a metric that gets better counts as one that got worse: the learning rate falls while training goes well",
    instead="mode='max' for a metric that should rise, mode='min' for one that should fall",
    silent_when="the name of the metric does not say which way is better, or its sign is turned",
    example_bad="import torch\nscheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)\n"
    "for epoch in range(epochs):\n    accuracy = train_and_validate(model)\n    scheduler.step(accuracy)",
    example_good="import torch\nscheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode='max')\n"
    "for epoch in range(epochs):\n    accuracy = train_and_validate(model)\n    scheduler.step(accuracy)",
    reference="https://docs.pytorch.org/docs/stable/generated/torch.optim.lr_scheduler.ReduceLROnPlateau.html",
)
FIX = ""
_RISES = re.compile(
    r"(^|_)(acc|accuracy|accuracies|accs|top1|f1|f1score|auc|auroc|dice|miou|iou|precision|recall|bleu|psnr|"
    r"ssim|map50|r2)(_|\d|$)",
    re.I,
)
_FALLS = re.compile(
    r"(^|_)(loss|losses|mse|rmse|mae|wer|cer|perplexity|ppl|nll|valloss|testloss|trainloss)(_|\d|$)", re.I
)
_TURNED = re.compile(r"neg|minus|inv|err|(^|_)(not|rev|diff|delta|one)(_|$)|loss_?(acc|iou|dice)|(dice|iou|ssim|"
                     r"f1|auc)_?loss", re.I)  # fmt: skip
_PASSES = ("mean", "item", "float", "average", "avg", "compute", "result", "value", "cpu", "detach", "sum", "numpy")


def find(script: Script) -> Iterator[Finding]:
    for places in script.places("schedule"):
        event = places[0]
        scheduler = event.target
        if scheduler is None or not all(_is_plateau(one) for one in places) or event.call is None:
            continue
        metric = argument(event.call, 0, "metrics")
        modes = {_mode(script, one) for one in places}
        if metric is None or len(modes) != 1:
            continue
        found = _wrong(script, _words(script, metric), modes.pop())
        if found and scheduler.made is not None:
            yield script.finding(
                CHECK,
                scheduler.made,
                f"{receiver(event)} watches {script.text(metric)} with {found}",
                [(event.node, "the metric is given here")],
            )
    yield from _monitored(script)


def _is_plateau(event: Event) -> bool:
    if event.target is None or not event.target.cls.endswith(
        "ReduceLROnPlateau"
    ):  # of branches that make others, it is ""
        return False
    return event.name == "step" and of_torch(event.target)


def _mode(script: Script, event: Event) -> str:
    made = event.target.made if event.target is not None else None
    if event.target is None or made is None or any(one.made is not made for one in event.target.either):
        return ""
    return _mode_of(script, made)


def _mode_of(script: Script, made: ast.Call) -> str:
    if any(one.arg is None for one in made.keywords) or any(isinstance(one, ast.Starred) for one in made.args):
        return ""
    node = argument(made, 1, "mode")
    mode = "min" if node is None else script.literal(node)
    return mode if mode in ("min", "max") else ""


def _wrong(script: Script, names: list[str], mode: str) -> str:
    """How mode and metric disagree, or ""."""
    if not names or any(_TURNED.search(one) for one in names):
        return ""
    rises, falls = any(_RISES.search(one) for one in names), any(_FALLS.search(one) for one in names)
    if mode == "min" and rises and not falls:
        return "mode 'min', so that a rise counts as a plateau"
    if mode == "max" and falls and not rises:
        return "mode 'max', so that a fall counts as a plateau"
    return ""


def _words(script: Script, node: ast.expr) -> list[str]:
    """The names that a metric is computed from; nothing where the sign may be turned."""
    if isinstance(node, ast.Name):
        values = script.assignments.get(node.id, [])
        if any(isinstance(inner, (ast.USub, ast.Sub)) for one in values if one is not None for inner in ast.walk(one)):
            return []
        return [node.id]
    if isinstance(node, ast.Attribute):
        return [node.attr] if node.attr not in ("avg", "val", "value", "mean") else _words(script, node.value)
    if isinstance(node, ast.Subscript):
        key = node.slice
        if isinstance(key, ast.Constant) and isinstance(key.value, str):
            return [re.sub(r"\W", "_", key.value)]
        return _words(script, node.value)
    if isinstance(node, ast.Call):
        name = (
            node.func.attr
            if isinstance(node.func, ast.Attribute)
            else node.func.id
            if isinstance(node.func, ast.Name)
            else ""
        )
        if name in _PASSES or name == "torch.tensor":
            inner = node.args[0] if node.args else node.func.value if isinstance(node.func, ast.Attribute) else None
            return _words(script, inner) if inner is not None else []
        return []
    if (
        isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.Div)
        and isinstance(node.right, (ast.Call, ast.Constant, ast.Name))
    ):
        return _words(script, node.left)
    return []


def _monitored(script: Script) -> Iterator[Finding]:
    """{"scheduler": ReduceLROnPlateau(...), "monitor": "val_loss"} of Lightning."""
    if "ReduceLROnPlateau" not in script.source or "monitor" not in script.source:
        return
    made = {
        id(one.made): one for one in script.made("scheduler") if of_torch(one) and is_class(one, "ReduceLROnPlateau")
    }
    for node in script.nodes:
        if not isinstance(node, ast.Dict):
            continue
        entries = _inner(node)
        entries |= _inner(entries.get("lr_scheduler"))
        scheduler, monitor = entries.get("scheduler", entries.get("lr_scheduler")), entries.get("monitor")
        scheduler = scheduler if isinstance(scheduler, ast.Call) else _local(script, scheduler)
        if scheduler is None or id(scheduler) not in made or not isinstance(monitor, ast.Constant):
            continue
        if not isinstance(monitor.value, str) or not isinstance(scheduler, ast.Call):
            continue
        found = _wrong(script, [re.sub(r"\W", "_", monitor.value)], _mode_of(script, scheduler))
        if found:
            yield script.finding(
                CHECK, scheduler, f"ReduceLROnPlateau watches {monitor.value!r} with {found}",
                [(monitor, "the metric is named here")],
            )  # fmt: skip


def _inner(node: ast.expr | None) -> dict[object, ast.expr]:
    if not isinstance(node, ast.Dict):
        return {}
    return {
        key.value: value for key, value in zip(node.keys, node.values, strict=True) if isinstance(key, ast.Constant)
    }


def _local(script: Script, node: ast.expr | None) -> ast.expr | None:
    """What the name of a scheduler stands for in the same function."""
    if not isinstance(node, ast.Name):
        return None
    around = script.parents.get(id(node))
    while around is not None and not isinstance(around, (ast.FunctionDef, ast.Module)):
        around = script.parents.get(id(around))
    found = [one.value for one in ast.walk(around or script.tree) if isinstance(one, ast.Assign)
             and any(isinstance(target, ast.Name) and target.id == node.id for target in one.targets)]  # fmt: skip
    return found[0] if len(found) == 1 else None


_HEAD = "\nfrom torch.optim.lr_scheduler import ReduceLROnPlateau\nimport torch\n"
BAD = (
    CHECK.example_bad.replace("ReduceLROnPlateau(optimizer)", "ReduceLROnPlateau(optimizer)  # expect"),
    _HEAD
    + """
class Trainer:
    def __init__(self, model):
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        self.scheduler = ReduceLROnPlateau(self.optimizer, mode="max", patience=3)  # expect
    def fit(self):
        for epoch in range(10):
            train_loss, val_loss = self.train_epoch()
            self.scheduler.step(val_loss)
""",
    _HEAD
    + """
scheduler = ReduceLROnPlateau(optimizer, "min", factor=0.5)  # expect
for epoch in range(10):
    metrics = evaluate(model)
    scheduler.step(metrics["val_f1"])
""",
    _HEAD
    + """
import pytorch_lightning as pl
class Model(pl.LightningModule):
    def configure_optimizers(self):
        opt = torch.optim.Adam(self.parameters())
        scheduler = ReduceLROnPlateau(opt, mode="max")  # expect
        return {"optimizer": opt, "lr_scheduler": {"scheduler": scheduler, "monitor": "val/loss"}}
""",
    _HEAD
    + """
def fit(model, loader, optimizer, scheduler):
    for epoch in range(3):
        for x, y in loader:
            optimizer.step()
        acc_meter.update(model)
        scheduler.step(np.mean(val_accs))
fit(model, loader, optimizer, ReduceLROnPlateau(optimizer))  # expect
""",
)
GOOD = (
    CHECK.example_good,
    _HEAD + "scheduler = ReduceLROnPlateau(optimizer)\nfor epoch in range(3):\n    scheduler.step(-accuracy)\n",
    _HEAD + "scheduler = ReduceLROnPlateau(optimizer)\nfor epoch in range(3):\n    scheduler.step(1 - val_acc)\n",
    _HEAD
    + "scheduler = ReduceLROnPlateau(optimizer, args.mode)\nfor epoch in range(3):\n    scheduler.step(val_acc)\n",
    _HEAD + "scheduler = ReduceLROnPlateau(optimizer)\nfor epoch in range(3):\n    scheduler.step(score)\n",
    _HEAD + "scheduler = ReduceLROnPlateau(optimizer)\nfor epoch in range(3):\n    scheduler.step(dice_loss)\n",
    _HEAD
    + "scheduler = ReduceLROnPlateau(optimizer)\nfor epoch in range(3):\n    val_acc = -evaluate(model)\n"
    + "    scheduler.step(val_acc)\n",
)
