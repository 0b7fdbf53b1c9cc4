"""Bad input gets one clear line, and nothing is half-changed."""

from typing import Any

import pytest
import torch

import stepwell
from stepwell import UsageError


def weight(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.zeros(shape or (3,), dtype=dtype, requires_grad=True)


TWICE = weight()

# what is done, and words that its message must have: what was given, what is allowed or what to do
REFUSED: list[tuple[str, Any, list[str]]] = [
    ("negative lr", lambda: stepwell.AdamW([weight()], lr=-1.0), ["lr=-1.0", "at least 0"]),
    ("nan lr", lambda: stepwell.AdamW([weight()], lr=float("nan")), ["lr=nan", "at least 0"]),
    ("infinite lr", lambda: stepwell.SGD([weight()], lr=float("inf")), ["lr=inf", "finite"]),
    ("lr a word", lambda: stepwell.SGD([weight()], lr="fast"), ["lr='fast'", "number"]),
    ("beta of one", lambda: stepwell.Adam([weight()], betas=(0.9, 1.0)), ["betas=(0.9, 1.0)", "[0, 1)"]),
    ("negative eps", lambda: stepwell.Adam([weight()], eps=-1e-8), ["eps=-1e-08", "at least 0"]),
    ("negative decay", lambda: stepwell.Lion([weight()], weight_decay=-0.1), ["weight_decay=-0.1"]),
    ("lr of a configuration file", lambda: stepwell.SGD([weight()], lr="1e-3"), ["lr='1e-3'", "number"]),
    ("decay of a configuration file", lambda: stepwell.Adam([weight()], weight_decay="0.1"), ["'0.1'", "number"]),
    ("lr in a list", lambda: stepwell.SGD([weight()], lr=[0.1]), ["lr=[0.1]", "one number"]),
    ("lr a flag", lambda: stepwell.SGD([weight()], lr=True), ["lr=True", "number"]),
    ("one beta", lambda: stepwell.AdamW([weight()], betas=(0.9,)), ["betas=(0.9,)", "2 numbers"]),
    ("beta alone", lambda: stepwell.AdamW([weight()], betas=0.9), ["betas=0.9", "2 numbers"]),
    ("Adan with two betas", lambda: stepwell.Adan([weight()], betas=(0.9, 0.9)), ["betas=(0.9, 0.9)", "3 numbers"]),
    ("half a step", lambda: stepwell.Muon([weight(3, 3)], ns_steps=2.5), ["ns_steps=2.5", "whole number"]),
    ("a word for a flag", lambda: stepwell.SGD([weight()], maximize="false"), ["maximize='false'", "True, False"]),
    ("a number for a flag", lambda: stepwell.AdaBelief([weight()], rectify=1), ["rectify=1", "True, False"]),
    ("flag of a group", lambda: stepwell.Adam([{"params": [weight()], "amsgrad": "no"}]), ["amsgrad='no'"]),
    (
        "nesterov of a group",
        lambda: stepwell.SGD([{"params": [weight()], "nesterov": True}], momentum=0.9, dampening=0.5),
        ["nesterov=True", "dampening=0.5"],
    ),
    (
        "etas of a group",
        lambda: stepwell.Rprop([{"params": [weight()], "etas": (1.5, 2.0)}]),
        ["etas=(1.5, 2.0)", "below 1"],
    ),
    ("step sizes swapped", lambda: stepwell.Rprop([weight()], step_sizes=(1.0, 0.1)), ["step_sizes=(1.0, 0.1)"]),
    ("no step at all", lambda: stepwell.Rprop([weight()], step_sizes=(0, 0)), ["step_sizes=(0", "above 0"]),
    ("no bound of the RMS", lambda: stepwell.Adafactor([weight()], eps=(None, None)), ["(None, None)", "number"]),
    ("a set", lambda: stepwell.AdamW({weight()}), ["set", "order", "list"]),
    ("a set in a group", lambda: stepwell.AdamW([{"params": {weight()}}]), ["group 0", "set", "list"]),
    ("no name", lambda: stepwell.create(None, [weight()]), ["None", "word"]),
    ("nothing to load", lambda: stepwell.AdamW([weight()]).load_state_dict(None), ["NoneType", "state_dict()"]),
    (
        "nothing to load, wrapped",
        lambda: stepwell.Lookahead(stepwell.AdamW([weight()])).load_state_dict([]),
        ["Lookahead", "list", "state_dict()"],
    ),
    (
        "a list for a slot",
        lambda: stepwell.Lion([weight()]).load_state_dict(
            {"state": {0: {"step": 1, "exp_avg": [0.0] * 3}}, "param_groups": [{"params": [0]}]}
        ),
        ["'exp_avg'", "parameter 0", "list"],
    ),
    ("nesterov alone", lambda: stepwell.SGD([weight()], nesterov=True), ["nesterov=True", "momentum"]),
    ("no parameters", lambda: stepwell.AdamW([]), ["empty", "model.parameters()"]),
    ("used-up generator", lambda: stepwell.AdamW(p for p in ()), ["empty", "already consumed"]),
    ("a tensor", lambda: stepwell.AdamW(weight()), ["list", "model.parameters()"]),
    ("a number", lambda: stepwell.AdamW(3), ["int", "model.parameters()"]),
    ("not a tensor", lambda: stepwell.AdamW([weight(), 3]), ["parameter 1", "int", "torch.Tensor"]),
    ("not a leaf", lambda: stepwell.AdamW([weight() * 2]), ["non-leaf"]),
    ("twice in a list", lambda: stepwell.AdamW([TWICE, TWICE]), ["twice"]),
    (
        "in two groups",
        lambda: stepwell.AdamW([{"params": [("a", TWICE)]}, {"params": [("b", TWICE)]}]),
        ["'b'", "'a'", "one group"],
    ),
    ("a group without params", lambda: stepwell.AdamW([{"lr": 1.0}]), ["group 0", "'params'"]),
    ("lr of a group", lambda: stepwell.AdamW([{"params": [weight()], "lr": -2.0}]), ["lr=-2.0"]),
    ("unknown in a group", lambda: stepwell.AdamW([{"params": [weight()], "lrr": 1.0}]), ["lrr=1.0", "'lr'"]),
    ("unknown option", lambda: stepwell.AdamW([weight()], wieght_decay=0.1), ["wieght_decay=0.1", "'weight_decay'"]),
    ("torch's own option", lambda: stepwell.AdamW([weight()], fused=True), ["fused=True", "backend"]),
    ("unknown backend", lambda: stepwell.AdamW([weight()], backend="tpu"), ["'tpu'", "eager", "cpu"]),
    ("complex", lambda: stepwell.AdamW([("w", weight(dtype=torch.complex64))]), ["'w'", "complex64", "view_as_real"]),
    ("unknown name", lambda: stepwell.create("adamv", [weight()]), ["'adamv'", "Adam"]),
]


def test_a_group_that_is_none_is_refused_in_a_wrapper_as_without() -> None:
    for optimizer in (stepwell.SGD([weight()]), stepwell.SAM(stepwell.SGD([weight()]))):
        with pytest.raises(TypeError, match="must be a dict"):
            optimizer.add_param_group([weight()])  # type: ignore[arg-type]


@pytest.mark.parametrize(("action", "words"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_refusals(action: Any, words: list[str]) -> None:
    with pytest.raises(UsageError) as refused:
        action()
    message = str(refused.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_refused_group_is_not_added() -> None:
    a, b = weight(), weight()
    optimizer = stepwell.AdamW([("a", a)])
    with pytest.raises(UsageError, match="'a'"):
        optimizer.add_param_group({"params": [("again", a)]})
    with pytest.raises(UsageError, match="betas"):
        optimizer.add_param_group({"params": [("b", b)], "betas": (0.9, 2.0)})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": [("b", b)], "lr": 0.5})
    assert optimizer.param_groups[1]["lr"] == 0.5


def test_the_cpu_backend_by_name_never_falls_back() -> None:
    p = torch.zeros(3, device="meta", requires_grad=True)
    p.grad = torch.zeros(3, device="meta")
    optimizer = stepwell.AdamW([("w", p)], backend="cpu")
    with pytest.raises(UsageError, match=r"'w'.*meta"):
        optimizer.step()


CHECKPOINTS: list[tuple[str, Any, list[str]]] = [
    ("not a checkpoint", lambda s: {"model": 1}, ["'state'", "model"]),
    ("another shape", lambda s: _with(s, 1, "exp_avg", torch.zeros(4)), ["'b'", "(4,)", "(3,)"]),
    ("a slot missing", lambda s: _without(s, 1, "exp_avg_sq"), ["'b'", "exp_avg_sq"]),
    ("a slot too many", lambda s: _with(s, 0, "momentum_buffer", torch.zeros(3)), ["'a'", "momentum_buffer"]),
    ("another name", lambda s: _renamed(s), ["'b'", "a different model"]),
]


def _with(saved: Any, index: int, slot: str, value: torch.Tensor) -> Any:
    saved["state"][index][slot] = value
    return saved


def _without(saved: Any, index: int, slot: str) -> Any:
    del saved["state"][index][slot]
    return saved


def _renamed(saved: Any) -> Any:
    saved["param_groups"][0]["param_names"] = ["a", "c"]
    return saved


@pytest.mark.parametrize(("change", "words"), [c[1:] for c in CHECKPOINTS], ids=[c[0] for c in CHECKPOINTS])
def test_a_checkpoint_that_does_not_fit_changes_nothing(change: Any, words: list[str]) -> None:
    def trained(steps: int) -> tuple[Any, list[torch.Tensor]]:
        params = [weight(), weight()]
        optimizer = stepwell.AdamW(zip("ab", params, strict=True), lr=0.1 * steps)
        for _ in range(steps):
            for p in params:
                p.grad = torch.ones_like(p)
            optimizer.step()
        return optimizer, params

    saved = change(trained(2)[0].state_dict())
    optimizer, params = trained(5)
    before = [{k: v.clone() for k, v in optimizer.state[p].items()} for p in params]
    with pytest.raises(UsageError) as refused:
        optimizer.load_state_dict(saved)
    for word in words:
        assert word in str(refused.value)
    assert optimizer.param_groups[0]["lr"] == 0.5
    for p, state in zip(params, before, strict=True):
        assert all(torch.equal(optimizer.state[p][k], v) for k, v in state.items())
