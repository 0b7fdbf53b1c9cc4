"""Calls of torch and of the libraries around it."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from stepwell.lint.analysis import known
from stepwell.lint.analysis.events import Loop
from stepwell.lint.analysis.given import Given, followed_not, number, unknown
from stepwell.lint.analysis.tensors import computed, detached, parameters_of
from stepwell.lint.analysis.values import (
    Class,
    Constant,
    External,
    Function,
    Many,
    Super,
    Tensor,
    Thing,
    Value,
    argument,
    item_of,
)

if TYPE_CHECKING:
    from stepwell.lint.analysis.interpreter import Interpreter


def call(run: Interpreter, node: ast.Call, name: str, given: Given) -> Value:
    """A call of the function or class with this full name."""
    last = name.rsplit(".", 1)[-1]
    special = _SPECIAL.get(name)
    if special is not None:
        return special(run, node, name, given)
    if name in known.SAME or last in (
        "DistributedDataParallel",
        "DataParallel",
        "tqdm",
        "FullyShardedDataParallel",
        "DDP",
        "FSDP",
    ):
        return _same(given)
    if known.is_scheduler(name):
        return _scheduler(run, node, name, given)
    if known.is_optimizer(name):
        return _optimizer(run, node, name, given)
    if name in known.CLIPS or last in ("clip_grad_norm_", "clip_grad_norm", "clip_grad_value_"):
        return _clip(run, node, name, given)
    if name in known.SCALERS or last == "GradScaler":
        return _make(run, node, "scaler", name)
    if name in known.AUTOCAST or last == "autocast":
        enabled = argument(node, 9, "enabled")
        return Thing(
            "autocast", "off" if isinstance(enabled, ast.Constant) and enabled.value is False else "", name, node
        )
    if name in known.NO_GRAD or name in known.GRAD or name in known.SET_GRAD:
        return _guard(run, node, name, given)
    if name in known.LOADERS or last in ("DataLoader", "NeighborLoader", "BucketIterator"):
        return _make(run, node, "loader", name, of=tuple(one for one in given.things() if one.kind == "sampler"))
    if name in known.SAMPLERS or last == "DistributedSampler":
        return _make(run, node, "sampler", name)
    if name in known.FRAMEWORKS:
        return _make(run, node, known.FRAMEWORKS[name], name, of=given.things())
    if name.startswith("torch.nn.") and last in known.LOSSES:
        return _make(run, node, "criterion", name)
    if name.startswith("torch.nn.functional.") and last in known.LOSS_FUNCTIONS:
        loss = _computed(node, given, "loss")
        if loss.attached is False and run.no_grad is not True and None in given.all():
            loss.attached = None  # of an output that nothing is known of
        loss.criterion = Thing("criterion", name, name, node)
        run.emit("loss", node, loss.criterion, value=loss, call=node, extra={"given": given.get(0, "input")})
        return loss
    if known.is_module(name):
        return _module(run, node, name, given)
    if name == "getattr":
        return _getattr(run, node, given)
    if name.startswith("torch.nn.functional.") or (name.startswith("torch.") and given.tensors()):
        return _of_torch(node, last, given)
    if name.startswith(("numpy.", "math.", "random.")) or name in known.NUMBER_CALLS:
        return number() if name != "abs" else followed_not(node, given)
    if name in ("print", "torch.manual_seed", "os.path.join", "open", "torch.device", "vars", "dir", "sum_"):
        return None
    return unknown(run, node, given)


def _same(given: Given) -> Value:
    return next((one for one in given.all() if isinstance(one, (Thing, Tensor, Many))), None)


def _make(
    run: Interpreter, node: ast.Call, kind: str, cls: str, of: tuple[Thing, ...] = (), whole: bool = True
) -> Thing:
    thing = Thing(kind, "", cls, node, of=of, whole=whole)
    run.emit("make", node, thing, call=node)
    return thing


def _optimizer(run: Interpreter, node: ast.Call, name: str, given: Given) -> Value:
    inner = next((one for one in given.things() if one.kind == "optimizer"), None)
    if inner is not None and not any(one.kind == "parameters" for one in given.things()):  # Lookahead(optimizer)
        run.emit("unknown", node, name=name, targets=(inner,), call=node)
        return inner
    params = given.get(0, "params")
    owned = parameters_of([params], node) if params is not None else None
    of = owned.of if owned is not None else ()
    return _make(run, node, "optimizer", name, of=of, whole=bool(owned and owned.whole and not given.hidden))


def _scheduler(run: Interpreter, node: ast.Call, name: str, given: Given) -> Thing:
    of = tuple(one for one in given.things() if one.kind == "optimizer")
    made = _make(run, node, "scheduler", name, of=of)
    for inner in given.things():
        if inner.kind == "scheduler":  # SequentialLR(optimizer, [warmup, cosine])
            run.emit("unknown", node, name=name, targets=(inner,), call=node)
            made.of = made.of or inner.of
    return made


def _clip(run: Interpreter, node: ast.Call, name: str, given: Given) -> Value:
    owned = parameters_of([given.get(0, "parameters")], node)
    how = "value" if "value" in name else "norm"
    run.emit(
        "clip",
        node,
        targets=owned.of,
        name=how,
        call=node,
        extra={"function": name.rsplit(".", 1)[-1], "whole": owned.whole},
    )
    return number()


def _guard(run: Interpreter, node: ast.Call, name: str, given: Given) -> Thing:
    if name in known.SET_GRAD:
        mode = given.get(0, "mode")
        if isinstance(mode, Constant) and mode.known:
            return Thing("grad" if mode.value else "no_grad", "lasting")
        return Thing("set_grad", "lasting")
    given_mode = argument(node, 0, "mode")
    if isinstance(given_mode, ast.Constant) and given_mode.value is False:
        return Thing("grad")
    if given_mode is not None and not isinstance(given_mode, ast.Constant):
        return Thing("set_grad")
    return Thing("grad" if name in known.GRAD else "no_grad")


def _module(run: Interpreter, node: ast.Call, name: str, given: Given) -> Thing:
    last = name.rsplit(".", 1)[-1]
    made = Thing("model", "", name, node)
    if last in ("Sequential", "ModuleList", "ModuleDict"):
        inside = [one for one in given.things() if one.kind == "model"]
        for one in inside:
            one.parent = one.parent or made
        starred = (run.value_quietly(one.value) for one in node.args if isinstance(one, ast.Starred))
        if last == "Sequential" and inside and not any(isinstance(one, Many) and one.ragged for one in starred):
            made.attributes["<last>"] = inside[-1]
    if not run.quiet:
        run.emit("make", node, made, call=node)
    return made


def _getattr(run: Interpreter, node: ast.Call, given: Given) -> Value:
    owner, attribute = given.get(0), given.get(1)
    if isinstance(owner, External) and owner.name in ("torch.optim", "optim"):
        return External("torch.optim.Optimizer")
    if isinstance(owner, External) and owner.name.endswith("lr_scheduler"):
        return External("torch.optim.lr_scheduler.LRScheduler")
    if isinstance(owner, External) and owner.name.endswith("torchvision.models"):
        return External("torchvision.models.some")
    if (
        isinstance(attribute, Constant)
        and isinstance(attribute.value, str)
        and isinstance(owner, (Thing, Tensor, External))
    ):
        return run.value_quietly(ast.copy_location(ast.Attribute(node.args[0], attribute.value, ast.Load()), node))
    return None


def _computed(node: ast.Call, given: Given, by: str) -> Tensor:
    return computed(by, node, given.tensors())


def _of_torch(node: ast.Call, last: str, given: Given) -> Value:
    parts = given.tensors()
    if last in ("tensor", "as_tensor", "from_numpy", "zeros_like", "ones_like", "rand_like", "randn_like", "full_like"):
        return detached(node, by="new")
    if last in known.DETACHING or last in ("is_tensor", "allclose", "bincount"):
        return detached(node, by=last)
    return computed(last, node, parts) if parts else None


def _new(run: Interpreter, node: ast.Call, name: str, given: Given) -> Value:
    return detached(node, by="new")


def _grad(run: Interpreter, node: ast.Call, name: str, given: Given) -> Value:
    run.emit("grad", node, value=next(iter(given.tensors()), None), call=node)
    retain = argument(node, 4, "create_graph")
    attached = retain is not None and not (isinstance(retain, ast.Constant) and not retain.value)
    return Tensor(attached, "grad", given.tensors() if attached else (), (), node)


def _backward(run: Interpreter, node: ast.Call, name: str, given: Given) -> Value:
    for one in given.tensors():
        run.emit("backward", node, value=one, call=node)
    return None


def _save(run: Interpreter, node: ast.Call, name: str, given: Given) -> Value:
    run.emit("save", node, value=given.get(0, "obj"), targets=given.things(), call=node)
    return None


def _load(run: Interpreter, node: ast.Call, name: str, given: Given) -> Value:
    thing = Thing("checkpoint", "", name, node)
    run.emit("load", node, thing, call=node)
    return thing


def _copy(run: Interpreter, node: ast.Call, name: str, given: Given) -> Value:
    one = given.get(0)
    if isinstance(one, Thing):
        made = Thing(one.kind, "", one.cls, node, one.sure, one.of, one.whole, None, one.local, dict(one.attributes))
        made.arguments["copy"] = one
        run.emit("make", node, made, call=node, extra={"copy": one})
        return made
    return one


def _chain(run: Interpreter, node: ast.Call, name: str, given: Given) -> Value:
    if any(one.kind in ("parameters", "model") for one in given.things()):
        return parameters_of(given.all(), node)
    return next(iter(given.things()), None)


def _enumerate(run: Interpreter, node: ast.Call, name: str, given: Given) -> Value:
    one = given.get(0, "iterable")
    if isinstance(one, Many) and one.whole and one.items:
        return Many([Many([number(), item]) for item in one.items])
    if isinstance(one, Thing) and one.kind == "loader":
        return Many([], whole=False, member=Many([number(), Tensor(False, "data")]), source=one)
    return Many([], whole=False, member=Many([number(), item_of(one)]))


def _zip(run: Interpreter, node: ast.Call, name: str, given: Given) -> Value:
    lists = given.all()
    whole = [one.items for one in lists if isinstance(one, Many) and one.whole and one.items]
    if lists and len(whole) == len(lists):
        return Many([Many(list(row)) for row in zip(*whole, strict=False)])
    return Many([], whole=False, member=Many([item_of(one) for one in lists]))


def _filter(run: Interpreter, node: ast.Call, name: str, given: Given) -> Value:
    one = given.get(1)
    if isinstance(one, Thing) and one.kind == "parameters":
        return Thing("parameters", one.name, of=one.of, whole=False)
    return one


def _map(run: Interpreter, node: ast.Call, name: str, given: Given) -> Value:
    function, over = given.get(0), given.get(1)
    if isinstance(function, Function) and over is not None:
        return Many([], whole=False, member=run.call(function, node, {0: item_of(over)}))
    return None


def _sum(run: Interpreter, node: ast.Call, name: str, given: Given) -> Value:
    parts = given.tensors()
    return computed("sum", node, parts) if parts else number()


def _next(run: Interpreter, node: ast.Call, name: str, given: Given) -> Value:
    one = given.get(0)
    if isinstance(one, Thing) and one.kind == "parameters":
        return detached(node, by="new")
    return Tensor(False, "data", node=node)


def _super(run: Interpreter, node: ast.Call, name: str, given: Given) -> Value:
    """The object itself, seen as one of the next class that has the method."""
    scope = run.scope
    function = run.function
    own = (
        function.args.args[0].arg
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)) and function.args.args
        else ""
    )
    me = scope.find(own) if own else None
    if not isinstance(me, Thing) or me.local is None:
        return None
    above: list[Class] = []
    met = False
    for one in me.local.lineage():
        if isinstance(one, Class):
            if met:
                above.append(one)
            elif function in one.methods.values():
                met = True
    parent = next((one for one in above), None)
    return Super("super", me.name, me.cls, local=parent, attributes=me.attributes, me=me)


def _partial(run: Interpreter, node: ast.Call, name: str, given: Given) -> Value:
    return given.get(0)


def _spawn(run: Interpreter, node: ast.Call, name: str, given: Given) -> Value:
    function = given.get(0, "fn")
    if isinstance(function, Function):
        run.call(function, node, {}, True)
    return None


def _engine(run: Interpreter, node: ast.Call, name: str, given: Given) -> Value:
    """Ignite: the function is called with every batch."""
    function = given.get(0, "process_function")
    if isinstance(function, Function):
        loop = Loop(node, "batch", implicit=True, loops=run.loops, function=run.function)
        around, outside = run.block, run.loops
        run.block, run.loops = loop.body, (*outside, loop)
        run.call(function, node, {1: Tensor(False, "data")}, True)
        run.block, run.loops = around, outside
        run.block.append(loop)
    return None


def _deepspeed(run: Interpreter, node: ast.Call, name: str, given: Given) -> Value:
    engine = Thing("engine", "", name, node, of=given.things())
    return Many([engine, Thing("engine", "", name, node), None, None])


def _amp_scale(run: Interpreter, node: ast.Call, name: str, given: Given) -> Value:
    parts = given.tensors()
    return computed("amp", node, parts) if parts else None


def _amp_initialize(run: Interpreter, node: ast.Call, name: str, given: Given) -> Value:
    values: list[Value] = [one for one in (given.get(0, "models"), given.get(1, "optimizers")) if one is not None]
    return values[0] if len(values) == 1 else Many(values)


def _variable(run: Interpreter, node: ast.Call, name: str, given: Given) -> Value:
    return given.get(0)


def _averaged(run: Interpreter, node: ast.Call, name: str, given: Given) -> Value:
    return _make(run, node, "average", name, of=given.things())


def _set_grad(run: Interpreter, node: ast.Call, name: str, given: Given) -> Value:
    guard = _guard(run, node, name, given)
    return guard


def _packed(run: Interpreter, node: ast.Call, name: str, given: Given) -> Value:
    """A PackedSequence, whose `data` has the graph of what was packed."""
    return computed("packed", node, given.tensors()) if given.tensors() else None


_SPECIAL = {
    **dict.fromkeys(("torch.nn.utils.rnn.pack_padded_sequence", "torch.nn.utils.rnn.pack_sequence"), _packed),
    **dict.fromkeys(("torch.tensor", "torch.zeros", "torch.ones", "torch.randn", "torch.rand", "torch.from_numpy",
                     "torch.arange", "torch.full", "torch.empty", "torch.FloatTensor", "torch.LongTensor",
                     "torch.Tensor",
                     "torch.randint", "torch.as_tensor", "torch.cuda.FloatTensor", "torch.normal",
                     "torch.randperm"), _new),
    "torch.autograd.grad": _grad,
    "torch.autograd.backward": _backward,
    "torch.autograd.Variable": _variable,
    "torch.save": _save,
    "torch.load": _load,
    "copy.deepcopy": _copy,
    "copy.copy": _copy,
    "itertools.chain": _chain,
    "itertools.chain.from_iterable": _chain,
    "enumerate": _enumerate,
    "zip": _zip,
    "filter": _filter,
    "map": _map,
    "sum": _sum,
    "next": _next,
    "super": _super,
    "functools.partial": _partial,
    "torch.multiprocessing.spawn": _spawn,
    "torch.multiprocessing.start_processes": _spawn,
    "ignite.engine.Engine": _engine,
    "deepspeed.initialize": _deepspeed,
    "apex.amp.scale_loss": _amp_scale,
    "apex.amp.initialize": _amp_initialize,
    "torch.optim.swa_utils.AveragedModel": _averaged,
    "torch_ema.ExponentialMovingAverage": _averaged,
    "timm.utils.ModelEmaV2": _averaged,
    "timm.utils.ModelEma": _averaged,
}  # fmt: skip
