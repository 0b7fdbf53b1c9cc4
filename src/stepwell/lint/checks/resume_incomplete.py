"""A training that is resumed without the optimizer that was saved."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from stepwell.findings import Check, Finding
from stepwell.lint.analysis import Event, Many, Script, Thing, argument
from stepwell.lint.analysis.evaluating import text_of
from stepwell.lint.analysis.relations import may_touch
from stepwell.lint.analysis.syntax import written

CHECK = Check(
    code="SW501",
    name="resume-incomplete",
    severity="error",
    certainty="certain",
    looks_for="where training is resumed, the optimizer never loads the state that a checkpoint of this file holds, "
    "or the checkpoint holds the epoch and no state of the optimizer",
    why="momentum and second moments begin again: the first updates after the resume are wrong, and the loss jumps",
    instead='load it: optimizer.load_state_dict(checkpoint["optimizer"])',
    silent_when="the weights are loaded to evaluate or to fine-tune (no epoch is read, nothing says resume), or a "
    "function of another file is given the optimizer and loads",
    example_bad="""if resume:
    checkpoint = torch.load("last.pt")
    model.load_state_dict(checkpoint["model"])
    start = checkpoint["epoch"]
for epoch in range(start, 90):
    train(model, optimizer)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}, "last.pt")""",
    example_good="""if resume:
    checkpoint = torch.load("last.pt")
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    start = checkpoint["epoch"]
for epoch in range(start, 90):
    train(model, optimizer)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}, "last.pt")""",
    reference="https://docs.pytorch.org/tutorials/beginner/saving_loading_models.html",
)
FIX = ""
_OPTIMIZER = re.compile(r"(^|[^a-z])(optim|opt($|[^a-z])|optimizer)", re.I)
_EPOCH = re.compile(r"^(start_?|last_?|cur(rent)?_?)?epochs?$", re.I)
_RESUME = re.compile(r"resum|continue_?(train|from)|start_?epoch|last_?epoch|restor", re.I)
_LOADS = re.compile(r"load|restore|resume|setup|prepare|initiali[sz]e", re.I)


def find(script: Script) -> Iterator[Finding]:
    if "load_state_dict" not in script.source or "torch.load" not in script.source:
        return
    saved = _saved(script)
    if _loads_optimizer(script):
        return
    if saved is None:
        yield from _never_saved(script)
        return
    save, key = saved
    for event, model in _resumes(script, save):
        yield script.finding(
            CHECK,
            event.node,
            f"training is resumed from a checkpoint, and the optimizer that it holds ({key!r}) is never loaded",
            [(save.node, "the optimizer is saved here"), (model.node, "only this is loaded")],
        )
        return


def _resumes(script: Script, save: Event) -> Iterator[tuple[Event, Event]]:
    """(load, what of it goes into a model) where a training goes on."""
    seen: set[int] = set()
    for event in script.of_kind("load"):
        known = _is_own_file(save, event) or _is_resumed(script, event) or _is_own_form(script, save, event)
        if id(event.node) in seen or not known:
            continue
        if not _is_trained_after(script, event):
            continue
        seen.add(id(event.node))
        model = next(
            (one for one in script.of_kind("load_state") if _is_near(one, event) and _is_of(script, one, event)), None
        )
        if model is not None:
            yield event, model


def _is_trained_after(script: Script, load: Event) -> bool:
    """Whether training may follow a load: not where a branch that only evaluates has loaded."""
    root = script.root_of(load)
    training = [one for one in root.events if one.kind == "backward"]
    if not training:
        return True  # in another root
    taken = {id(branch): index for branch, index in load.branches}
    return any(all(taken.get(id(branch), index) == index for branch, index in one.branches) for one in training)


def _never_saved(script: Script) -> Iterator[Finding]:
    """A checkpoint that holds the epoch, from which the training goes on, and not the optimizer."""
    optimizer = next((one for one in script.made("optimizer") if _has_state(script, one)), None)
    if optimizer is None or optimizer.made is None:
        return
    for save in script.of_kind("save"):
        keys = save.value.keys if isinstance(save.value, Many) and save.value.whole else None
        epoch = next((key for key in keys or () if isinstance(key, str) and _EPOCH.match(key)), None)
        if epoch is None:
            continue
        for event, model in _resumes(script, save):
            if any(_reads_epoch(line, _name_of(script, event)) for line in script.lines):
                yield script.finding(
                    CHECK,
                    event.node,
                    f"training goes on at the saved {epoch}, and the checkpoint holds no state of the optimizer",
                    [(save.node, "the optimizer is not saved here"), (model.node, "only the weights are loaded")],
                    instead="save optimizer.state_dict() (and that of the scheduler) beside the weights, and load both",
                )
                return


def _has_state(script: Script, optimizer: Thing) -> bool:
    """Whether a new optimizer lacks something that the old one had: momentum, or second moments."""
    last = optimizer.cls.rsplit(".", 1)[-1]
    if not optimizer.sure or not optimizer.cls.startswith("torch.optim."):
        return False
    momentum = optimizer.argument(2, "momentum")
    return last != "SGD" or (momentum is not None and script.literal(momentum) != 0)


def _saved(script: Script) -> tuple[Event, str] | None:
    """The save that has the optimizer, and under which key."""
    for event in script.of_kind("save"):
        keys = event.value.keys if isinstance(event.value, Many) else None
        for key in keys or ():
            if (
                isinstance(key, str)
                and _OPTIMIZER.search(key)
                and not key.lower().endswith(("name", "args", "config", "cfg"))
            ):
                return event, key
        first = event.call.args[0] if event.call is not None and event.call.args else None
        if (
            isinstance(first, ast.Call)
            and isinstance(first.func, ast.Attribute)
            and first.func.attr == "state_dict"
            and (_OPTIMIZER.search(written(first.func.value)))
        ):
            return event, written(first.func.value)
    return None


def _loads_optimizer(script: Script) -> bool:
    """Whether anything may load the optimizer."""
    for event in script.events:
        if (
            event.kind == "load_state"
            and event.target is not None
            and event.target.kind in ("optimizer", "engine", "accelerator")
        ):
            return True
        if (
            event.kind == "unknown"
            and any(one.kind == "checkpoint" for one in event.targets)
            and (_LOADS.search(event.name) or any(one.kind in ("optimizer", "instance") for one in event.targets))
        ):
            return True
        if (
            event.kind == "unknown"
            and any(one.kind == "optimizer" and may_touch(event, one) for one in event.targets)
            and (_LOADS.search(event.name))
        ):
            return True
    for node in script.each(ast.Call, ast.Subscript):
        if not isinstance(node, ast.Call):
            if (
                isinstance(node, ast.Subscript)
                and isinstance(node.ctx, ast.Load)
                and isinstance(node.slice, ast.Constant)
            ) and (
                isinstance(node.slice.value, str)
                and _OPTIMIZER.search(node.slice.value)
                and re.search(
                    r"ck?pt|check|state|saved|loaded|load|resume|snap|dict|^[a-z]{1,4}$",
                    written(node.value),
                    re.I,
                )
            ):
                return True
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else written(node.func)
        if name.startswith(("load", "restore", "resume", "_load")) and _OPTIMIZER.search(written(node)):
            return True
        if (
            name in ("load_state_dict", "load_state", "restore")
            and isinstance(node.func, ast.Attribute)
            and not re.search(
                r"model|net|module|self|encoder|decoder|sched|scaler|ema|head|criterion",
                written(node.func.value),
                re.I,
            )
        ):
            return True  # of something whose kind its name does not tell
        if (
            name in ("get", "pop")
            and node.args
            and isinstance(node.args[0], ast.Constant)
            and isinstance(node.args[0].value, str)
            and _OPTIMIZER.search(node.args[0].value)
        ):
            return True
    return False


def _is_own_form(script: Script, save: Event, load: Event) -> bool:
    """Whether the averaged weights and more of what the training saves are read from a file before the training."""
    keys = save.value.keys if isinstance(save.value, Many) else None
    name = re.escape(_name_of(script, load))
    trained = [one for one in script.root_of(load).events if one.kind == "backward" and one.order > load.order]
    if not keys or not name or load.loops or not save.loops or not trained:
        return False
    read = [str(key) for key in keys if re.search(rf"\b{name}\[['\"]{re.escape(str(key))}['\"]\]", script.source)]
    return len(read) >= 2 and any(re.search("ema|average|swa", key, re.I) for key in read)


def _is_own_file(save: Event, load: Event) -> bool:
    """Whether a load before the training reads the very file that the training saves."""
    given = [argument(one.call, place, "f") for one, place in ((save, 1), (load, 0)) if one.call is not None]
    paths = [written(one) for one in given if one is not None]
    return len(paths) == 2 and paths[0] == paths[1] and load.order < save.order and len(load.loops) < len(save.loops)


def _is_resumed(script: Script, load: Event) -> bool:
    """Whether a load is a resume: it says so, or the epoch continues from there."""
    if not any(event.kind in ("step", "backward") for event in script.events) and "optimizer.step" not in script.source:
        return False
    name = _name_of(script, load)
    if name and any(_reads_epoch(line, name) for line in script.lines):
        return True
    around = [getattr(load.function, "name", "")]
    around += [branch.test or "" for branch, index in load.branches if index == int(branch.negated)]
    around += [written(argument) for argument in getattr(load.node, "args", ())[:1]]
    return any(_RESUME.search(text) for text in around) and not re.search(
        r"test|eval|infer|finetune|pretrain", around[0]
    )


def _reads_epoch(line: str, name: str) -> bool:
    """Whether a line is `start_epoch = checkpoint["epoch"] + 1`."""
    target, sign, source = line.partition("=")
    if not sign or name not in source or "print" in target or not re.search(r"epoch|step|iter|start|begin", target):
        return False
    return re.match(rf"\s*(int\()?{re.escape(name)}(\.get\(|\[)['\"]\w*(epoch|step|iter)", source) is not None


def _name_of(script: Script, load: Event) -> str:
    statement = script.statement(load.node)
    return written(statement.targets[0]) if isinstance(statement, ast.Assign) and len(statement.targets) == 1 else ""


def _is_near(loaded: Event, load: Event) -> bool:
    """Whether both are in one function, or the load is called from that of the other."""
    inside = list(ast.walk(loaded.node))
    return loaded.function is load.function or any(frame in inside for frame in load.frames)


def _is_of(script: Script, loaded: Event, load: Event) -> bool:
    """Whether a state comes from this checkpoint."""
    name = _name_of(script, load)
    text = written(loaded.node)
    inside = list(ast.walk(loaded.node))
    if load.node in inside or any(frame in inside for frame in load.frames):
        return True
    return bool(name and re.search(rf"(^|\W){re.escape(name)}\W", text)) or bool(
        name
        and re.search(
            rf"=.*\b{re.escape(name)}[.\[]", text_of(script, loaded.function) if loaded.function else script.source
        )
    )


_TRAIN = """
import torch
for epoch in range(start, 90):
    for x, y in loader:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
"""
_SAVE = (
    '    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}, "last.pt")\n'
)


def _resume(code: str) -> str:
    return _TRAIN.replace("for epoch", f"{code.strip()}\nfor epoch") + _SAVE


_ONLY_NET = """
import torch
optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
start_epoch = 0
if args.resume:
    checkpoint = torch.load("ckpt.pth")  # expect
    net.load_state_dict(checkpoint["net"])
    start_epoch = checkpoint["epoch"]
for epoch in range(start_epoch, start_epoch + 200):
    for x, y in loader:
        optimizer.zero_grad()
        loss_fn(net(x), y).backward()
        optimizer.step()
    torch.save({"net": net.state_dict(), "acc": acc, "epoch": epoch}, "ckpt.pth")
"""
BAD = (
    _ONLY_NET,
    "import torch\n"
    + CHECK.example_bad.replace('"last.pt")\n    model', '"last.pt")  # expect\n    model').replace(
        "train(model, optimizer)", "loss(model).backward()\n    optimizer.step()"
    ),
    _resume("""
if args.resume:
    ckpt = torch.load(args.resume)  # expect
    model.load_state_dict(ckpt["model"])
"""),
    _resume("""
start = 0
if os.path.exists("last.pt"):
    state = torch.load("last.pt", map_location="cpu")  # expect
    model.load_state_dict(state["model"])
    start = state["epoch"] + 1
"""),
    """
import torch
class Trainer:
    def __init__(self, model):
        self.model = model
        self.optimizer = torch.optim.AdamW(model.parameters())
    def save(self, epoch):
        state = {"model": self.model.state_dict(), "optim": self.optimizer.state_dict(), "epoch": epoch}
        torch.save(state, "last.pt")
    def load_checkpoint(self, path):
        state = torch.load(path)  # expect
        self.model.load_state_dict(state["model"])
        self.start_epoch = state["epoch"] + 1
    def fit(self, loader):
        for epoch in range(self.start_epoch, 9):
            for x in loader:
                self.optimizer.zero_grad()
                self.model(x).sum().backward()
                self.optimizer.step()
            self.save(epoch)
""",
    """
import torch
def resume(model, path):
    model.load_state_dict(torch.load(path)["state_dict"])  # expect
def main():
    resume(model, "last.pt")
    for x, y in loader:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
    torch.save({"state_dict": model.state_dict(), "optimizer_state_dict": optimizer.state_dict()}, "last.pt")
main()
""",
)
GOOD = (
    _ONLY_NET.replace(", momentum=0.9", "").replace("  # expect", ""),
    _ONLY_NET.replace('    start_epoch = checkpoint["epoch"]\n', "").replace("  # expect", ""),
    "import torch\n"
    + CHECK.example_good.replace("train(model, optimizer)", "loss(model).backward()\n    optimizer.step()"),
    _resume('model.load_state_dict(torch.load("pretrained.pt"))\nstart = 0'),
    _resume("""
if args.evaluate:
    checkpoint = torch.load("best.pt")
    model.load_state_dict(checkpoint["model"])
    print("epoch", checkpoint["epoch"])
"""),
    _resume("""
if args.resume:
    state = torch.load(args.resume)
    for name, one in (("model", model), ("optimizer", optimizer)):
        one.load_state_dict(state[name])
    start = state["epoch"]
"""),
    _resume("""
if args.resume:
    start = load_checkpoint(model, optimizer, torch.load(args.resume))
    model.load_state_dict(model.state_dict())
"""),
    _TRAIN.replace(
        "for epoch",
        """if resume:
    checkpoint = torch.load("last.pt")
    model.load_state_dict(checkpoint["model"])
    start = checkpoint["epoch"]
for epoch""",
    )
    + '    torch.save({"model": model.state_dict(), "epoch": epoch}, "last.pt")\n',
)
