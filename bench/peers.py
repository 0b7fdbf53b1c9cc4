"""Other people's implementations of an optimizer, found by its name in the packages that are installed.

A package that is missing gives no peer. A peer is made with the row's own options and its own defaults for the rest;
one that lacks an option is left out. What they do with them is not checked here: tests compare numbers.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any

import torch

Make = Callable[[list[torch.Tensor]], Any]

PACKAGES = ("pytorch-optimizer", "lion-pytorch", "schedulefree", "prodigyopt", "heavyball", "torchao", "bitsandbytes")
# Those of heavyball that are asked: it compiles each for up to half a minute.
OF_HEAVYBALL = ("Muon", "SOAP")

# Ours -> theirs, where folding case, hyphens and underscores is not enough.
NAMES: dict[str, dict[str, str]] = {
    "pytorch_optimizer": {"Signum": "SignSGD"},
    "schedulefree": {"ScheduleFreeSGD": "SGDScheduleFree", "ScheduleFreeAdamW": "AdamWScheduleFree"},
}
# Of the same name, and another method.
NOT_THE_SAME = {
    ("pytorch_optimizer", "ASGD"),  # adapts to the local smoothness; ours and torch's averages the iterates
}
STATE_SUFFIX = {"fp32": "", "int8": "8bit", "int4": "4bit"}
WAYS_OF_TORCH = ("foreach", "fused")


def peers(name: str, options: Mapping[str, Any], state: str | None, lr: float) -> dict[str, Make]:
    """Label -> how to make it, for the optimizer called `name` with its state in a format (None: its own name's)."""
    found = _wrapped(name, options, lr)
    if found or "base" in options:
        return found
    if state in (None, "fp32"):
        found |= of_torch(name, options, lr)
        for package in ("pytorch_optimizer", "lion_pytorch", "schedulefree", "prodigyopt"):
            found |= _by_name(package, name, options, lr)
        if name in OF_HEAVYBALL:
            found |= _of_heavyball(name, options, lr)
    suffix = "" if state is None else STATE_SUFFIX.get(state)
    if suffix is not None:
        for package, label in (("bitsandbytes.optim", "bitsandbytes"), ("torchao.optim", "torchao")):
            found |= _by_name(package, name + suffix, options, lr, label)
    return found


def torch_fused_adamw(params: list[torch.Tensor], lr: float) -> Any:
    """What every optimizer is held against."""
    return torch.optim.AdamW(params, lr=lr, fused=True)


def installed() -> dict[str, str | None]:
    """The packages of the extra `bench` and their versions; None where one is missing."""
    found: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def of_torch(name: str, options: Mapping[str, Any], lr: float) -> dict[str, Make]:
    """Those of `torch.optim`: its loop over tensors, and the faster ways that its optimizer has."""
    cls = _named(torch.optim, name)
    if cls is None or not _takes(cls, options):
        return {}
    taken = inspect.signature(cls.__init__).parameters
    made: dict[str, Make] = {}
    for way in WAYS_OF_TORCH:
        if way in taken:
            made[f"torch {way}"] = lambda p, way=way: cls(p, lr=lr, **options, **{way: True})
    return {"torch": lambda p: cls(p, lr=lr, **options, **_loop(taken)), **made}


def _loop(taken: Mapping[str, Any]) -> dict[str, bool]:
    """One tensor after the other: on a CPU what torch takes by itself, and often faster than foreach."""
    return {"foreach": False} if "foreach" in taken else {}


class _GradientsFirst:
    """pytorch-optimizer's SAM wants the gradients where it stands before it is called; ours computes them itself."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer

    @property
    def state(self) -> Any:
        return self.optimizer.state

    def step(self, closure: Callable[[], Any]) -> Any:
        closure()
        return self.optimizer.step(closure)


def _wrapped(name: str, options: Mapping[str, Any], lr: float) -> dict[str, Make]:
    """Wrappers, around the optimizer of torch that `base` names: they are not made from parameters and a rate."""
    module = load("pytorch_optimizer")
    if module is None or name not in ("SAM", "ASAM", "Lookahead"):
        return {}
    inside = {key: value for key, value in options.items() if key != "base"}
    base = _named(torch.optim, options.get("base", "AdamW"))
    if base is None:
        return {}
    if name == "Lookahead":
        return {"pytorch-optimizer": lambda p: module.Lookahead(base(p, lr=lr, fused=True, **inside))}
    given = {**inside, "base_optimizer": base, "lr": lr, "fused": True, "adaptive": name == "ASAM"}
    return {"pytorch-optimizer": lambda p: _GradientsFirst(module.SAM(p, **given))}


class _GradientsKept:
    """heavyball takes the gradients away from the parameters; each step is given the same ones again."""

    def __init__(self, optimizer: Any, params: list[torch.Tensor]) -> None:
        self.optimizer = optimizer
        self._gradients = [(p, p.grad) for p in params]

    @property
    def state(self) -> Any:
        return self.optimizer.state

    def step(self) -> Any:
        for p, gradient in self._gradients:
            p.grad = gradient
        with quiet():
            return self.optimizer.step()


def _of_heavyball(name: str, options: Mapping[str, Any], lr: float) -> dict[str, Make]:
    found = _by_name("heavyball", name, options, lr)
    return {label: lambda p, make=make: _GradientsKept(make(p), p) for label, make in found.items()}


def _by_name(
    package: str, name: str, options: Mapping[str, Any], lr: float, label: str | None = None
) -> dict[str, Make]:
    module = load(package)
    if module is None:
        return {}
    cls = _named(module, NAMES.get(package, {}).get(name, name))
    if cls is None or (package, cls.__name__) in NOT_THE_SAME or not _takes(cls, options):
        return {}

    def make(params: list[torch.Tensor]) -> Any:
        given = [{"params": params, "use_muon": True}] if (package, name) == ("pytorch_optimizer", "Muon") else params
        optimizer = cls(given, lr=lr, **options)
        if callable(getattr(optimizer, "train", None)):  # Schedule-Free refuses to step before
            optimizer.train()
        return optimizer

    return {f"{label or package.replace('_', '-')}": make}


def _named(module: ModuleType, name: str) -> type[Any] | None:
    """The optimizer of that name which the module (and not torch) defines."""
    wanted = name.lower()
    for found, value in sorted(vars(module).items()):
        if found.lower() == wanted and inspect.isclass(value) and issubclass(value, torch.optim.Optimizer):
            foreign = module is not torch.optim and value.__module__.startswith("torch.")
            return None if foreign else value
    return None


def _takes(cls: type[Any], options: Mapping[str, Any]) -> bool:
    taken = inspect.signature(cls.__init__).parameters
    return all(option in taken for option in options)


@cache
def load(package: str) -> ModuleType | None:
    """The module, imported on first use and without its noise; None where it is not installed or does not import."""
    with quiet():
        try:
            return importlib.import_module(package)
        except ImportError:
            return None
        except Exception:  # a package that fails in its own way on this machine is as good as missing
            return None


@contextmanager
def quiet() -> Iterator[None]:
    """Without warnings, log lines and what is written to stderr: peers say a lot when they are imported."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(before)
