"""States that do not fit: thousands of changed checkpoints, each loaded rightly or refused with nothing changed.

A case trains an optimizer for a few steps, changes its state (one or two changes, drawn with a fixed seed) and loads it
into another optimizer in a second process of training. Then either

- the load is refused by a UsageError of one line, and the other optimizer's state is bit for bit what it was; or
- it is taken: a step gives finite weights, those of the definition (the eager backend) that loaded the same, and, where
  a change does not change the meaning (other strides, another device order, a subclass), those of the unchanged state;
  what torch.optim takes too gives torch's weights.

No other exception, no warning, no signal. A sample runs here; `STEPWELL_FUZZ=full` (`make fuzz`) runs all.
"""

from __future__ import annotations

import copy
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import stepwell as sw
from stepwell.errors import UsageError

FULL = os.environ.get("STEPWELL_FUZZ") == "full"
STATES = 4080 if FULL else 340  # the sample takes 10 s

# name: (what makes the optimizer of named parameters, dtype of the weights, torch's optimizer of the same meaning)
Make = Callable[..., Any]
CASES: dict[str, tuple[Make, torch.dtype, Make | None]] = {
    "AdamW": (lambda p, **o: sw.AdamW(p, lr=1e-2, **o), torch.float32, lambda p: torch.optim.AdamW(p, lr=1e-2)),
    "AdamW amsgrad": (lambda p, **o: sw.AdamW(p, lr=1e-2, amsgrad=True, **o), torch.float32, None),
    "AdamW bf16": (lambda p, **o: sw.AdamW(p, lr=1e-2, state="bf16", **o), torch.float32, None),
    "AdamW int8": (lambda p, **o: sw.AdamW(p, lr=1e-2, state="int8", **o), torch.float32, None),
    "AdamW int4": (lambda p, **o: sw.AdamW(p, lr=1e-2, state="int4", **o), torch.float32, None),
    "AdamW split": (lambda p, **o: sw.AdamW(p, lr=1e-2, weights="split", **o), torch.bfloat16, None),
    "AdamW fp64": (lambda p, **o: sw.AdamW(p, lr=1e-2, **o), torch.float64, None),
    "SGD": (
        lambda p, **o: sw.SGD(p, lr=1e-2, momentum=0.9, **o),
        torch.float32,
        lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9),
    ),
    "Lion int8": (lambda p, **o: sw.Lion(p, lr=1e-3, state="int8", **o), torch.float32, None),
    "NAdam": (lambda p, **o: sw.NAdam(p, lr=1e-3, **o), torch.float32, None),
    "Adafactor": (lambda p, **o: sw.Adafactor(p, lr=1e-2, **o), torch.float32, None),
    "Prodigy": (lambda p, **o: sw.Prodigy(p, **o), torch.float32, None),
    "ScheduleFreeAdamW": (lambda p, **o: sw.ScheduleFreeAdamW(p, lr=1e-2, **o), torch.float32, None),
    "MARS": (lambda p, **o: sw.MARS(p, lr=1e-3, optimize_1d=False, **o), torch.float32, None),
    "Lookahead": (lambda p, **o: sw.Lookahead(sw.AdamW(p, lr=1e-2, **o), k=2), torch.float32, None),
    "Lookahead SAM": (lambda p, **o: sw.Lookahead(sw.SAM(sw.SGD(p, lr=1e-2, momentum=0.9, **o))), torch.float32, None),
    "LBFGS": (lambda p, **o: sw.LBFGS(p, lr=0.1, max_iter=2), torch.float32, None),
}
SHAPES = {"a.weight": (70, 64), "a.bias": (5,), "b.weight": (64, 70)}


class Mine(torch.Tensor):
    """A subclass that changes nothing."""


@dataclass
class Run:
    """One optimizer with its parameters."""

    optimizer: Any
    params: list[Tensor]

    def step(self, number: int) -> None:
        gradients = _gradients(number)

        def closure() -> Tensor:
            total = torch.zeros(())
            for p, g in zip(self.params, gradients, strict=True):
                p.grad = g.to(p.dtype).reshape(p.shape)
                total = total + (p.detach().float() * g.reshape(p.shape)).sum()
            return total

        with torch.no_grad():
            self.optimizer.step(closure)


def _gradients(number: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(number)
    return [torch.randn(shape, generator=generator) for shape in SHAPES.values()]


def begun(name: str, steps: int, first: int, backend: str = "auto") -> Run:
    make, dtype, _ = CASES[name]
    generator = torch.Generator().manual_seed(7)
    params = [torch.randn(shape, generator=generator).to(dtype) for shape in SHAPES.values()]
    params[2] = params[2].t()  # another order of memory than of dimensions
    params = [p.requires_grad_() for p in params]
    named = list(zip(SHAPES, params, strict=True))
    run = Run(make(named) if name == "LBFGS" or backend == "auto" else make(named, backend=backend), params)
    for number in range(steps):
        run.step(first + number)
    return run


# Changes. Each takes a source of randomness and a state, changes the state, and says whether it means what it did.

BAD_NUMBERS = (
    *(float("nan"), float("inf"), -1, -1.0, -5, 2.5, 1 + 2j, "3", "fp32", None, True, 10**400, b"1", object()),
    *([1.0], (0.9, 0.999), {}, np.float64("nan"), np.array([1.0, 2.0]), torch.tensor(float("nan")), torch.tensor(1j)),
    *(torch.tensor([1.0, 2.0]), torch.tensor(-3.0), torch.empty((), device="meta"), torch.tensor([])),
)
GARBAGE = (None, 3, 2.5, "x", b"y", [1], (1, 2), {}, {"a": {"b": [1]}}, object(), np.zeros((3, 2)), 1j, True)


def _place(rng: random.Random, state: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """A parameter's entries and the name of one."""
    slots = rng.choice([one for one in state["state"].values() if isinstance(one, dict) and one])
    return slots, rng.choice(sorted(map(str, slots)))


def _tensor_place(rng: random.Random, state: dict[str, Any]) -> tuple[dict[str, Any], str]:
    for _ in range(50):
        slots, key = _place(rng, state)
        if isinstance(slots.get(key), Tensor) and slots[key].dim():
            break
    return slots, key


def drop_entry(rng: random.Random, state: dict[str, Any]) -> bool:
    slots, key = _place(rng, state)
    slots.pop(key, None)
    return False


def drop_several(rng: random.Random, state: dict[str, Any]) -> bool:
    slots, _ = _place(rng, state)
    for key in list(slots):
        if rng.random() < 0.5:
            del slots[key]
    return False


def drop_parameter(rng: random.Random, state: dict[str, Any]) -> bool:
    state["state"].pop(rng.choice(list(state["state"])))
    return False


def swap_entries(rng: random.Random, state: dict[str, Any]) -> bool:
    """Two entries of one parameter, or of two, change places."""
    (one, key), (other, second) = _place(rng, state), _place(rng, state)
    one[key], other[second] = other[second], one[key]
    return False


def double_entry(rng: random.Random, state: dict[str, Any]) -> bool:
    slots, key = _place(rng, state)
    slots[rng.choice(["momentum_buffer", "exp_avg", "sum", f"{key}_largest", "max_exp_avg_sq", "order"])] = slots[key]
    return False


def other_type(rng: random.Random, state: dict[str, Any]) -> bool:
    slots, key = _place(rng, state)
    slots[key] = rng.choice(GARBAGE)
    return False


def as_numpy(rng: random.Random, state: dict[str, Any]) -> bool:
    slots, key = _tensor_place(rng, state)
    if isinstance(slots[key], Tensor):
        slots[key] = slots[key].float().numpy()
    return False


def bad_step(rng: random.Random, state: dict[str, Any]) -> bool:
    slots, _ = _place(rng, state)
    slots["step"] = rng.choice(BAD_NUMBERS)
    return False


def other_shape(rng: random.Random, state: dict[str, Any]) -> bool:
    slots, key = _tensor_place(rng, state)
    value = slots[key]
    if isinstance(value, Tensor):
        changes: list[Callable[[Tensor], Tensor]] = [
            lambda t: t.flatten(),
            lambda t: t[:-1],
            lambda t: t[None],
            lambda t: torch.cat([t, t]),
            lambda t: t.t() if t.dim() == 2 else t[::2],
            lambda t: t[:0],
            lambda t: t.sum(),
            lambda t: t.flatten()[:1],
            lambda t: t.flatten()[: t.numel() // 2],
        ]
        slots[key] = rng.choice(changes)(value)
    return False


def other_dtype(rng: random.Random, state: dict[str, Any]) -> bool:
    slots, key = _tensor_place(rng, state)
    if isinstance(slots[key], Tensor):
        kinds = ("float16", "bfloat16", "float64", "float32", "int64", "int8", "uint8", "int16", "bool", "complex64")
        kinds += ("float8_e4m3fn",)
        slots[key] = slots[key].to(getattr(torch, rng.choice(kinds)))
    return False


def all_cast(rng: random.Random, state: dict[str, Any]) -> bool:
    """What is done to save space: everything floating in fewer bits."""
    kind = rng.choice([torch.float16, torch.bfloat16, torch.float64])
    for slots in state["state"].values():
        for key, value in slots.items() if isinstance(slots, dict) else ():
            if isinstance(value, Tensor) and (value.is_floating_point() or rng.random() < 0.1):
                slots[key] = value.to(kind)
    return False


def bad_numbers(rng: random.Random, state: dict[str, Any]) -> bool:
    slots, key = _tensor_place(rng, state)
    value = slots[key]
    if isinstance(value, Tensor) and value.is_floating_point() and value.numel():
        value.view(-1)[rng.randrange(value.numel())] = rng.choice([float("nan"), float("inf"), -float("inf"), -1.0])
    return False


def negated(rng: random.Random, state: dict[str, Any]) -> bool:
    slots, key = _tensor_place(rng, state)
    if isinstance(slots[key], Tensor) and slots[key].is_floating_point():
        slots[key] = -slots[key]
    return False


def other_layout(rng: random.Random, state: dict[str, Any]) -> bool:
    """The same numbers in another place: strides with gaps, a subclass, a gradient asked for, a parameter."""
    slots, key = _tensor_place(rng, state)
    value = slots[key]
    if isinstance(value, Tensor) and value.dim() and "wrappers" not in key:
        gaps = torch.zeros((*value.shape, 2), dtype=value.dtype)[..., 0]
        if value.dim() == 1 or value.dtype != torch.uint8:
            gaps.copy_(value)
            changes = [gaps, value.as_subclass(Mine), value.clone(memory_format=torch.contiguous_format)]
        else:
            changes = [value.as_subclass(Mine)]
        if value.is_floating_point():
            changes += [value.clone().requires_grad_(), torch.nn.Parameter(value.clone()), torch._neg_view(-value)]
        slots[key] = rng.choice(changes)
    return True


def overlapping(rng: random.Random, state: dict[str, Any]) -> bool:
    slots, key = _tensor_place(rng, state)
    value = slots[key]
    if isinstance(value, Tensor) and value.numel():
        slots[key] = value.flatten()[:1].expand(value.numel()).view(value.shape)
    return False


def no_memory(rng: random.Random, state: dict[str, Any]) -> bool:
    """Tensors without numbers of their own: meta, sparse, quantized, with a storage that was cut."""
    slots, key = _tensor_place(rng, state)
    value = slots[key]
    if not isinstance(value, Tensor):
        return True
    what = rng.randrange(5)
    if what == 0:
        slots[key] = value.to("meta")
    elif what == 1:
        slots[key] = value.float().to_sparse()
    elif what == 2:
        slots[key] = value.clone()
        slots[key].untyped_storage().resize_(8)
    elif what == 3:
        slots[key] = torch.nested.nested_tensor([value.float().flatten()], layout=torch.jagged)
    else:
        slots[key] = value.to(torch.complex64)
    return False


def groups_changed(rng: random.Random, state: dict[str, Any]) -> bool:
    group = rng.choice(state["param_groups"])
    what = rng.randrange(13)
    if what == 0:
        group["params"] = group["params"][:-1]
    elif what == 1:
        group["params"] = [*group["params"], 99]
    elif what == 2:
        group["params"] = [0] * len(group["params"])
    elif what == 3:
        group["params"] = rng.choice([None, 3, "ab", {0, 1}, np.arange(len(group["params"])), [[0]], [None, 1, 2], {}])
    elif what == 4:
        del group["params"]
    elif what == 5:
        group["param_names"] = rng.choice([None, 3, "abc", [], ["x"], [1, 2, 3], ["q", "r", "s"], ["a.bias"] * 3])
    elif what == 6:
        state["param_groups"] = rng.choice([None, 3, {}, [], [None], [3], ["params"], state["param_groups"] * 2])
    elif what == 7:
        state["state"] = rng.choice([None, 3, [], "x", {0: 3}, {0: None}, {0: [1]}, {(1, 2): {}}, {torch.ones(1): {}}])
    elif what == 8:
        del state[rng.choice(["state", "param_groups"])]
    elif what == 9:
        key = rng.choice([one for one in group if one not in ("params", "param_names")])
        group[key] = rng.choice([*BAD_NUMBERS, *GARBAGE])
    elif what == 10:
        key = rng.choice(["lr", "betas", "eps", "weight_decay", "state", "weights", "maximize", "momentum", "seed"])
        group[key] = rng.choice([*BAD_NUMBERS, *GARBAGE])
    elif what == 11:
        group.pop(rng.choice(list(group)))
    else:
        rng.shuffle(group["params"])
    return False


def added(rng: random.Random, state: dict[str, Any]) -> bool:
    """What a user adds: carried."""
    what, value = rng.randrange(3), rng.choice([7, "x", [1, {"a": 2}], torch.ones(2), None])
    if what == 0:
        state["state"]["epoch"] = value
    elif what == 1:
        rng.choice(state["param_groups"])["lr_scale"] = value
    else:
        slots, _ = _place(rng, state)
        slots["my own"] = value
    return True


def nested(rng: random.Random, state: dict[str, Any]) -> bool:
    slots, key = _place(rng, state)
    slots[key] = rng.choice([{"step": slots[key]}, [slots[key]], (slots[key], slots[key]), {0: {0: slots[key]}}])
    return False


def strange_keys(rng: random.Random, state: dict[str, Any]) -> bool:
    slots, key = _place(rng, state)
    value = slots.pop(key)
    slots[rng.choice([3, (1, 2), None, f"{key} ", key.upper(), f"{key}_", b"x", 1.5])] = value
    return False


def wrapped(rng: random.Random, state: dict[str, Any]) -> bool:
    group = rng.choice(state["param_groups"])
    good = {"k": 2, "alpha": 0.5, "pullback": "none", "clock": 1}
    good[rng.choice(list(good))] = rng.choice([*BAD_NUMBERS, *GARBAGE])
    group["wrappers"] = rng.choice([None, 3, {}, {"Lookahead": None}, {"SAM": {"rho": -1}}, {"Lookahead": good}, "x"])
    return False


CHANGES: list[Callable[[random.Random, dict[str, Any]], bool]] = [
    *(drop_entry, drop_several, drop_parameter, swap_entries, double_entry, other_type, as_numpy, bad_step),
    *(other_shape, other_dtype, all_cast, bad_numbers, negated, other_layout, other_layout, overlapping, no_memory),
    *(groups_changed, groups_changed, groups_changed, added, nested, strange_keys, wrapped),
]


# Comparing


def same(a: Any, b: Any) -> bool:
    """Whether two states are the same, bit for bit."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        if not (isinstance(a, Tensor) and isinstance(b, Tensor)) or (a.dtype, a.shape) != (b.dtype, b.shape):
            return False
        return torch.equal(a.detach().contiguous().view(-1), b.detach().contiguous().view(-1))
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


STARTS: dict[str, tuple[dict[str, Any], list[Tensor]]] = {}


def saved_by(name: str) -> dict[str, Any]:
    """A state of three steps, and the weights that an unchanged load and a step give."""
    if name not in STARTS:
        saved = copy.deepcopy(begun(name, 3, 1).optimizer.state_dict())
        target = begun(name, 1, 50)
        target.optimizer.load_state_dict(copy.deepcopy(saved))
        target.step(90)
        STARTS[name] = saved, [p.detach().clone() for p in target.params]
    return copy.deepcopy(STARTS[name][0])


def judge(seed: int) -> str:
    """Change, load and step; returns "refused" or "taken", and fails where that is wrong."""
    rng = random.Random(seed)
    name = list(CASES)[seed % len(CASES)]
    state = saved_by(name)
    changes = [rng.choice(CHANGES) for _ in range(rng.choice([1, 1, 1, 2]))]
    means_the_same = True
    for change in changes:
        try:
            means_the_same &= change(rng, state)
        except (KeyError, AttributeError, IndexError, TypeError, ValueError, RuntimeError):  # it met the one before
            means_the_same = False
    what = f"seed {seed}: {name}, {' and '.join(change.__name__ for change in changes)}"

    run = begun(name, 1, 50)
    before = copy.deepcopy(run.optimizer.state_dict())
    weights = [p.detach().clone() for p in run.params]
    refused = ""
    try:
        run.optimizer.load_state_dict(shallow(state))
    except UsageError as error:
        refused = str(error)
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
    if refused:
        assert "\n" not in refused, f"{what}: {refused}"
        assert same(run.optimizer.state_dict(), before), f"{what}: changed, and refused with {refused}"
        assert not means_the_same, f"{what}: {refused}"
        return "refused"
    assert same([p.detach() for p in run.params], weights), what
    twin = begun(name, 1, 50, backend="eager")
    twin.optimizer.load_state_dict(shallow(state))
    for one in (run, twin):
        try:
            one.step(90)
        except Exception as error:
            raise AssertionError(f"{what}: taken, then {type(error).__name__}: {error}") from error
    for p, q in zip(run.params, twin.params, strict=True):
        assert p.isfinite().all(), f"{what}: not finite"
        torch.testing.assert_close(p, q, rtol=2e-3, atol=1e-4, msg=lambda text: f"{what}: {text}")
    if means_the_same:
        assert same([p.detach() for p in run.params], STARTS[name][1]), f"{what}: other weights"
    theirs = CASES[name][2]
    if theirs is not None:
        _compare_with_torch(what, theirs, state, run)
    return "taken"


def shallow(state: Any) -> Any:
    """A copy of all dicts and lists, with the very tensors."""
    if type(state) is dict:
        return {key: shallow(value) for key, value in state.items()}
    return [shallow(item) for item in state] if type(state) is list else state


def _compare_with_torch(what: str, theirs: Make, state: dict[str, Any], run: Run) -> None:
    if any(group.get("cautious") or group.get("decoupled_weight_decay") for group in state["param_groups"]):
        return  # torch knows neither
    mine = begun(next(iter(CASES)) if "AdamW" in what else "SGD", 1, 50)
    plain = Run(theirs(list(zip(SHAPES, mine.params, strict=True))), mine.params)
    try:
        plain.optimizer.load_state_dict(shallow(state))
        plain.step(90)
    except Exception:
        return  # torch is not to be asked
    names = [name for group in state["param_groups"] for name in group.get("param_names") or ()]
    order = [index for group in state["param_groups"] for index in group["params"]]
    if names != list(SHAPES) or order != [0, 1, 2]:  # torch loads by position, without a look at names
        return
    for p, q in zip(run.params, plain.params, strict=True):
        torch.testing.assert_close(p, q, rtol=2e-3, atol=1e-4, msg=lambda text: f"{what}: torch has {text}")


@pytest.mark.filterwarnings("ignore:ScheduleFreeAdamW is saved in train mode")
@pytest.mark.parametrize("name", CASES)
def test_a_changed_state_is_loaded_rightly_or_refused_with_nothing_changed(name: str) -> None:
    outcomes = [judge(seed) for seed in range(list(CASES).index(name), STATES, len(CASES))]
    assert {"taken", "refused"} == set(outcomes)


@pytest.mark.filterwarnings("ignore:ScheduleFreeAdamW is saved in train mode")
@pytest.mark.parametrize("name", CASES)
def test_an_unchanged_state_gives_the_same_step(name: str) -> None:
    saved_by(name)
    run = begun(name, 3, 1)
    other = begun(name, 1, 50)
    other.optimizer.load_state_dict(copy.deepcopy(run.optimizer.state_dict()))
    with torch.no_grad():
        for p, q in zip(other.params, run.params, strict=True):
            p.copy_(q)
    for one in (run, other):
        one.step(90)
    assert same([p.detach() for p in run.params], [p.detach() for p in other.params])
