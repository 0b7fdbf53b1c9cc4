"""Calls of optimizers: every argument of every one in the table, groups that are added, and groups that are changed."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from stepwell.anatomy.batch_norm import recalibrate
from stepwell.arguments import is_finite_number
from stepwell.errors import UsageError
from stepwell.optimizers import TABLE, create, find
from stepwell.switching import switch
from stepwell.wrappers.swats import Swats

SHARED = ("params", "state", "weights", "backend", "seed", "maximize", "cautious", "decoupled_weight_decay", "foreach")
WORDS: dict[Any, tuple[str, ...]] = {
    "params": ("parameter", "group"),
    "optimizer": ("wrap",),
    "model_or_params": ("params", "parameter"),
    "base": ("optimizer",),
    ("create", "name"): ("optimizer",),
    ("switch", "lr"): ("weight_decay",),  # of the product that is carried over
    "set_to_none": (),
}


def _parameters() -> list[tuple[str, nn.Parameter]]:
    values = torch.linspace(-1, 1, 30)
    named = [("hidden.weight", values[:24].reshape(6, 4)), ("hidden.bias", values[24:])]
    return [(name, nn.Parameter(tensor.clone())) for name, tensor in named]


def _bits(value: Any) -> Any:
    """Something that compares equal for equal states, bit for bit."""
    if isinstance(value, Tensor):
        return (str(value.dtype), tuple(value.shape), value.detach().cpu().contiguous().numpy().tobytes())
    if isinstance(value, dict):
        return {repr(key): _bits(kept) for key, kept in value.items()}
    if isinstance(value, (list, tuple)):
        return (type(value).__name__, [_bits(item) for item in value])
    return repr(value)


@contextmanager
def unchanged(*seen: Callable[[], Any]) -> Iterator[None]:
    """A refusal in the body changes nothing that the functions `seen` return."""
    before = [_bits(look()) for look in seen]
    try:
        yield
    except UsageError:
        after = [_bits(look()) for look in seen]
        assert before == after, "a refused call has changed something"
        raise


def _closure(optimizer: Any) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = sum((p * p).sum() for g in optimizer.param_groups for p in g["params"])  # type: ignore[assignment]
        loss.backward()
        return loss

    return closure


def _wrapped(name: str) -> bool:
    return find(name).facts.kind == "wrapper"


def _made(name: str, **given: Any) -> Any:
    cls = find(name)
    if _wrapped(name):
        given.setdefault("optimizer", _made("SGD", momentum=0.9))
        return cls(**given)
    given.setdefault("params", _parameters())
    if name != "LBFGS":
        given.setdefault("backend", "eager")
    return cls(**given)


def _is_kept_well(value: Any) -> bool:
    """Whether a hyperparameter is kept as what every reader understands."""
    if isinstance(value, tuple):
        return all(_is_kept_well(item) for item in value)
    return value is None or type(value) in (bool, int, float, str) or isinstance(value, Tensor)


def _check_kept(group: dict[str, Any], key: str, usual: Any) -> None:
    if key not in group or key == "params":
        return
    kept = group[key]
    assert _is_kept_well(kept), f"kept as a {type(kept).__name__}"
    if isinstance(usual, float) and kept is not None:
        assert is_finite_number(kept) or kept == math.inf, f"taken for a number: {kept!r:.80}"
    if isinstance(usual, bool):
        assert isinstance(kept, bool), f"taken for a flag: {kept!r:.80}"


def _construct(name: str) -> Callable[..., Any]:
    usual = {key: one.default for key, one in inspect.signature(find(name).__init__).parameters.items()}

    def call(**given: Any) -> None:
        optimizer = _made(name, **given)
        ((key, _),) = given.items()
        for group in optimizer.param_groups:
            _check_kept(group, key, usual.get(key))
        optimizer.step(_closure(optimizer))
        if hasattr(optimizer, "explain"):
            str(optimizer.explain())

    return call


def _arguments(name: str) -> tuple[str, ...]:
    own = [key for key in inspect.signature(find(name).__init__).parameters if key not in ("self", "options")]
    shared = () if _wrapped(name) or name == "LBFGS" else SHARED
    return tuple(dict.fromkeys((*own, *shared)))


def _hyperparameters(name: str) -> tuple[str, ...]:
    """What stands in the groups, beside the parameters."""
    (group, *_) = _made(name).param_groups
    return tuple(key for key in group if key not in ("params", "param_names", "name"))


def _add_group(name: str) -> Callable[..., Any]:
    def call(**given: Any) -> None:
        optimizer = _made(name)
        optimizer.step(_closure(optimizer))
        with unchanged(optimizer.state_dict, lambda: len(optimizer.param_groups)):
            optimizer.add_param_group({"params": [("more.weight", nn.Parameter(torch.ones(3, 2)))], **given})
        optimizer.step(_closure(optimizer))

    return call


def _change_group(name: str, backend: str = "eager") -> Callable[..., Any]:
    """A value is written into a group later: the next step takes it, or refuses it and changes no weight."""

    def call(**given: Any) -> None:
        optimizer = _made(name, **({} if name == "LBFGS" or _wrapped(name) else {"backend": backend}))
        closure = _closure(optimizer)
        optimizer.step(closure)
        ((key, value),) = given.items()
        usual = optimizer.param_groups[0][key]
        optimizer.param_groups[0][key] = value
        tensors = [tensor for group in optimizer.param_groups for tensor in group["params"]]
        with unchanged(lambda: tensors):
            optimizer.step(closure)
        _check_kept(optimizer.param_groups[0], key, usual)

    return call


def _on(method: str, argument: str = "value") -> Callable[..., Any]:
    def call(**given: Any) -> None:
        optimizer = _made("AdamW")
        optimizer.step(_closure(optimizer))
        with unchanged(optimizer.state_dict, lambda: len(optimizer.param_groups)):
            getattr(optimizer, method)(**given)

    return call


def _created(**given: Any) -> None:
    create(**{"name": "adamw", "model_or_params": _parameters(), **given})


def _created_around(**given: Any) -> None:
    create("sam", **{"model_or_params": _parameters(), **given})


def _switched(**given: Any) -> None:
    optimizer = _made("AdamW")
    optimizer.step(_closure(optimizer))
    with unchanged(optimizer.state_dict):
        switch(**{"optimizer": optimizer, "to": "sgd", "lr": 0.1, **given})


def _recalibrated(**given: Any) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    with unchanged(model.state_dict):
        recalibrate(**{"model": model, "batches": [torch.ones(4, 2), torch.zeros(4, 2)], **given})


def _group_of(**given: Any) -> None:
    _made("AdamW", params=[{"params": _parameters(), **given}])


# Arguments that are code or data of the user's own, whose exceptions are handed on as they are.
USERS_OWN = {("recalibrate", "batches"), ("recalibrate", "forward")}

CALLS: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    **{name: (_construct(name), _arguments(name)) for name in TABLE},
    **{f"add a group to {name}": (_add_group(name), ("params", *_hyperparameters(name)))
       for name in TABLE if name != "LBFGS"},
    **{f"change a group of {name}": (_change_group(name), _hyperparameters(name)) for name in TABLE},
    "change a group of AdamW in a kernel": (_change_group("AdamW", "auto"), ("lr", "betas", "eps", "weight_decay")),
    "Swats": (lambda optimizer=None, **given: Swats(_made("Adam") if optimizer is None else optimizer, **given),
              ("optimizer", "tolerance")),
    "group": (_group_of, ("params", "lr", "betas", "name", "param_names", "state", "lr_scale")),
    "beta": (lambda value: _made("AdamW", betas=(0.9, value)), ("value",)),
    "add_param_group": (_on("add_param_group"), ("param_group",)),
    "zero_grad": (_on("zero_grad"), ("set_to_none",)),
    "step of an optimizer": (_on("step"), ("closure",)),
    "update": (_on("update"), ("gradient_factor", "found_inf")),
    "load_state_dict": (_on("load_state_dict"), ("state_dict",)),
    "keep_formats": (lambda keep_formats: (lambda o: o.load_state_dict(o.state_dict(), keep_formats=keep_formats))(
        _made("AdamW")), ("keep_formats",)),
    "create": (_created, ("name", "model_or_params", "lr", "momentum", "backend")),
    "create around": (_created_around, ("model_or_params", "base", "rho", "lr", "momentum", "model")),
    "switch": (_switched, ("optimizer", "to", "lr", "carry", "weight_decay", "momentum")),
    "recalibrate": (_recalibrated, tuple(inspect.signature(recalibrate).parameters)),
}  # fmt: skip

WORDS |= {("beta", "value"): ("betas",)}
WORDS |= {(name, "train_mode"): ("eval mode",) for name in CALLS if name.endswith(("FreeAdamW", "FreeSGD"))}
