"""A module that the loss goes through and that no optimizer updates."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from stepwell.findings import Check, Finding
from stepwell.lint.analysis import Event, Script, Tensor, Thing
from stepwell.lint.analysis.layers import is_layer, methods
from stepwell.lint.analysis.relations import may_touch, updates
from stepwell.lint.analysis.syntax import written

CHECK = Check(
    code="SW602",
    name="module-in-no-optimizer",
    severity="error",
    certainty="certain",
    looks_for="a module with freshly made parameters takes part in the loss, and no optimizer of the script has its "
    "parameters; or an optimizer is given the parameters of an object that nobody keeps",
    why="the module stays at its random start: everything before and behind it learns to work around noise",
    instead="add its parameters to the optimizer, or freeze it by requires_grad_(False) to say that it is meant",
    silent_when="the module is loaded, pretrained, frozen, put into eval mode, or any optimizer or call is not known",
    example_bad="import torch\nencoder = torch.nn.Linear(784, 64)\ndecoder = torch.nn.Linear(64, 10)\n"
    "optimizer = torch.optim.Adam(decoder.parameters())\nfor x, y in loader:\n    optimizer.zero_grad()\n"
    "    loss = loss_fn(decoder(encoder(x)), y)\n    loss.backward()\n    optimizer.step()",
    example_good="import torch\nencoder = torch.nn.Linear(784, 64)\ndecoder = torch.nn.Linear(64, 10)\n"
    "optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()])\nfor x, y in loader:\n"
    "    optimizer.zero_grad()\n    loss = loss_fn(decoder(encoder(x)), y)\n    loss.backward()\n    optimizer.step()",
    reference="https://docs.pytorch.org/docs/stable/optim.html#constructing-it",
)
FIX = ""
_LAYER = re.compile(
    r"(^|\.)(Linear|Bilinear|Conv\w*|LSTM|GRU|RNN|Embedding\w*|BatchNorm\w*|LayerNorm|MultiheadAttention|"
    r"Transformer\w*|Parameter)$"
)
_FIXED = re.compile(r"target|teacher|fixed|frozen|ema|vgg|lpips|clip|extract|percep|ref|old|moment|key|pretrain|"
                    r"loss|critic|eval|random|prior|feature|attack|victim", re.I)  # fmt: skip
_SETS = re.compile(r"requires_grad|no_grad|add_param_group|automatic_optimization|load_from_checkpoint|freeze")


def find(script: Script) -> Iterator[Finding]:
    in_place = [*_made_in_place(script), *_in_lightning(script)]
    yield from in_place
    if in_place:
        return  # the model that should have been given is the same mistake
    optimizers = list(script.made("optimizer"))
    steps = [event for event in script.of_kind("step") if event.target is not None]
    if not script.complete or not optimizers or not steps:
        return
    if not all(one.sure and one.whole and one.of and one.local is None for one in optimizers):
        return
    if any(not any(event.target.is_same(one) for one in optimizers) for event in steps if event.target is not None):
        return
    if script.of_kind("freeze", "unfreeze", "load_state", "load", "replace") or "add_param_group" in script.source:
        return
    seen: set[int] = set()
    for backward in script.of_kind("backward"):
        near = any(one.loops and one.loops[-1] in backward.loops[-1:] for one in steps)
        if not isinstance(backward.value, Tensor) or not near:
            continue
        for model in dict.fromkeys(one for part in backward.value.history() for one in part.models):
            if id(model) not in seen and _is_left_out(script, model, optimizers, backward):
                seen.add(id(model))
                assert model.made is not None
                yield script.finding(
                    CHECK,
                    model.made,
                    f"{model.name} takes part in the loss, and no optimizer has its parameters",
                    [(backward.node, "its gradients are computed here"),
                     *((one.made, "not in this optimizer") for one in optimizers[:2] if one.made is not None)],
                )  # fmt: skip


def _made_in_place(script: Script) -> Iterator[Finding]:
    """`SGD(Net().parameters())`: the parameters of an object that nobody keeps."""
    local = {one.node.name for one in script.classes}
    for optimizer in dict.fromkeys(script.made("optimizer")):
        for node in ast.walk(optimizer.made) if optimizer.made is not None else ():
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            made = node.func.value
            if node.func.attr not in ("parameters", "named_parameters") or not isinstance(made, ast.Call):
                continue
            name = written(made.func).rsplit(".", 1)[-1]
            if name in local or (name[:1].isupper() and script.full_name(made.func)):
                yield script.finding(
                    CHECK,
                    node,
                    f"the optimizer gets the parameters of a new {name}(), which nothing else uses",
                    instead="make the model first, and give the optimizer the parameters of this model",
                )


def _in_lightning(script: Script) -> Iterator[Finding]:
    """A layer of a LightningModule, where configure_optimizers() gives the parameters of other parts only."""
    if "configure_optimizers" not in script.source:
        return
    for cls in script.each(ast.ClassDef):
        functions = {one.name: one for one in methods(cls)}
        configure, init = functions.get("configure_optimizers"), functions.get("__init__")
        if configure is None or init is None or _SETS.search(written(cls)):
            continue
        given = [
            written(one.func.value)
            for one in ast.walk(configure)
            if isinstance(one, ast.Call)
            and isinstance(one.func, ast.Attribute)
            and one.func.attr in ("parameters", "named_parameters")
        ]
        own = [
            one
            for one in ast.walk(configure)
            if isinstance(one, ast.Call)
            and written(one.func).startswith("self.")
            and not written(one.func).endswith("parameters")
        ]
        if not given or own or any(not one.startswith("self.") or one.count(".") != 1 for one in given):
            continue
        rest = "".join(written(one) for name, one in functions.items() if name not in ("__init__", configure.name))
        for one in init.body:
            if not isinstance(one, ast.Assign):
                continue
            target = written(one.targets[0])
            if not target.startswith("self.") or target in given or _FIXED.search(target) or f"{target}(" not in rest:
                continue
            if is_layer(script, one.value):
                yield script.finding(
                    CHECK,
                    one,
                    f"{target} is a layer that this module calls, and configure_optimizers() gives the parameters of "
                    f"{', '.join(dict.fromkeys(given))} only",
                    [(configure, "not in the optimizer that is made here")],
                )


def _is_left_out(script: Script, model: Thing, optimizers: list[Thing], backward: Event) -> bool:
    if model.kind != "model" or not model.sure or model.made is None or model.parent is not None or model.either:
        return False
    if not model.name or _FIXED.search(model.name) or "copy" in model.arguments or not _has_parameters(model):
        return False
    if any(updates(one, model) is not False for one in optimizers):
        return False
    if not isinstance(backward.value, Tensor) or backward.value.attached is not True:
        return False
    for event in script.events:
        if event.kind in ("eval", "average") and event.target is not None and event.target.is_same(model):
            return False
        if may_touch(event, model) and event.name.rsplit(".", 1)[-1] not in ("print", "summary", "watch"):
            return False
    return script.resolved(model.made) is model.made and "pretrained" not in written(model.made)


def _has_parameters(model: Thing) -> bool:
    if model.local is None:
        if model.cls.rsplit(".", 1)[-1] == "Sequential" and model.made is not None:
            return any(_LAYER.search(written(one.func)) for one in ast.walk(model.made) if isinstance(one, ast.Call))
        return model.cls.startswith("torch.nn.") and bool(_LAYER.search(model.cls))
    start = model.local.method("__init__")
    return start is not None and any(
        _LAYER.search(written(one.func)) for one in ast.walk(start) if isinstance(one, ast.Call)
    ) and "requires_grad" not in written(start) and "no_grad" not in written(model.local.node)  # fmt: skip


_HEAD = "\nimport torch\nfrom torch import nn, optim\n"
_NETS = """
class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(9, 9)
    def forward(self, x):
        return self.fc(x)
"""
BAD: tuple[str, ...] = (
    """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(9, 9)
    def forward(self, x):
        return self.fc(x)
net = Net().cuda()
optimizer = torch.optim.SGD(Net().parameters(), lr=0.01)  # expect
for x, y in loader:
    loss = loss_fn(net(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
""",
    CHECK.example_bad.replace("Linear(784, 64)", "Linear(784, 64)  # expect"),
    _HEAD
    + _NETS
    + """
encoder = Encoder().to(device)  # expect
head = nn.Sequential(nn.Linear(9, 9), nn.ReLU(), nn.Linear(9, 2))
optimizer = optim.SGD(head.parameters(), lr=0.1)
criterion = nn.CrossEntropyLoss()
for epoch in range(3):
    for x, y in loader:
        optimizer.zero_grad()
        loss = criterion(head(encoder(x)), y)
        loss.backward()
        optimizer.step()
""",
    _HEAD
    + _NETS
    + """
def train(encoder, decoder, loader, optimizer):
    for x, y in loader:
        loss = nn.functional.mse_loss(decoder(encoder(x)), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
def main():
    encoder, decoder = Encoder(), nn.Linear(9, 9)  # expect
    optimizer = optim.Adam(encoder.parameters(), lr=1e-3)
    train(encoder, decoder, loader, optimizer)
main()
""",
    _HEAD
    + _NETS
    + """
class Trainer:
    def __init__(self):
        self.body = Encoder()
        self.head = nn.Linear(9, 2)  # expect
        self.optimizer = optim.AdamW(self.body.parameters(), lr=1e-3)
        self.criterion = nn.CrossEntropyLoss()
    def fit(self, loader):
        for x, y in loader:
            loss = self.criterion(self.head(self.body(x)), y)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
Trainer().fit(loader)
""",
    _HEAD
    + _NETS
    + """
netA, netB = Encoder(), Encoder()  # expect
optimizerA = optim.Adam(netA.parameters())
optimizerB = optim.Adam(netA.parameters())
for x in loader:
    optimizerA.zero_grad()
    optimizerB.zero_grad()
    loss = nn.functional.mse_loss(netB(netA(x)), x)
    loss.backward()
    optimizerA.step()
    optimizerB.step()
""",
)
_LIGHTNING = """
import lightning as L
import torch
from torch import nn
class Tagger(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = AutoModel.from_pretrained("bert-base-cased")
        self.linear = nn.Linear(768, 9)  # expect
    def training_step(self, batch, index):
        return loss_fn(self.linear(self.model(**batch).last_hidden_state), batch["labels"])
    def configure_optimizers(self):
        return torch.optim.AdamW(self.model.parameters(), lr=2e-5)
"""
BAD = (*BAD, _LIGHTNING)
GOOD = (
    _LIGHTNING.replace("(self.model.par", "(self.par").replace("  # expect", ""),
    _LIGHTNING.replace("model.parameters()", "model.parameters(), *self.linear.parameters()").replace("  # expect", ""),
    CHECK.example_good,
    _HEAD + _NETS + "vgg = Encoder()\nnet = Encoder()\noptimizer = optim.Adam(net.parameters())\n"
    "for x in loader:\n    loss = nn.functional.mse_loss(vgg(net(x)), x)\n    loss.backward()\n    "
    "optimizer.step()\n    optimizer.zero_grad()\n",
    _HEAD + _NETS + "body = Encoder()\nbody.load_state_dict(torch.load('a.pt'))\nnet = Encoder()\noptimizer = "
    "optim.Adam(net.parameters())\n"
    "for x in loader:\n    loss = nn.functional.mse_loss(net(body(x)), x)\n    loss.backward()\n    "
    "optimizer.step()\n    optimizer.zero_grad()\n",
    _HEAD
    + _NETS
    + "body = Encoder()\nbody.requires_grad_(False)\nnet = Encoder()\noptimizer = optim.Adam(net.parameters())\n"
    "for x in loader:\n    loss = nn.functional.mse_loss(net(body(x)), x)\n    loss.backward()\n    "
    "optimizer.step()\n    optimizer.zero_grad()\n",
    _HEAD + _NETS + "body = Encoder()\nnet = Encoder()\nparams = collect(body, net)\noptimizer = optim.Adam(params)\n"
    "for x in loader:\n    loss = nn.functional.mse_loss(net(body(x)), x)\n    loss.backward()\n    "
    "optimizer.step()\n    optimizer.zero_grad()\n",
    _HEAD + _NETS + "G, D = Encoder(), Encoder()\noptG, optD = optim.Adam(G.parameters()), optim.Adam(D.parameters())\n"
    "for x in loader:\n    optG.zero_grad()\n    D(G(x)).mean().backward()\n    optG.step()\n    "
    "optD.zero_grad()\n    D(x).mean().backward()\n    optD.step()\n",
)
