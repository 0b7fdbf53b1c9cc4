"""Loading: everything is checked before anything changes; what is the user's own is carried."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import stepwell as sw
from stepwell.engine import checkpoint, prefixes
from stepwell.engine.own_keys import is_own_key
from stepwell.errors import UsageError
from stepwell.optimizers import TABLE, find


def trained(make: Callable[..., Any] = sw.AdamW, steps: int = 2) -> tuple[Any, list[Tensor]]:
    params = [torch.ones(3, 4, requires_grad=True), torch.ones(4, requires_grad=True)]
    optimizer = make(list(zip(["w", "b"], params, strict=True)))
    for number in range(steps):
        for p in params:
            p.grad = torch.full_like(p, 0.5 + number)
        optimizer.step()
    return optimizer, params


# A user's own


@pytest.mark.parametrize("theirs", [torch.optim.AdamW, sw.AdamW, lambda p: sw.Lookahead(sw.AdamW(p))])
def test_own_entries_of_the_state_are_carried(theirs: Any) -> None:
    optimizer, params = trained(theirs)
    optimizer.state["epoch"] = 7
    optimizer.state[params[0]]["note"] = torch.arange(2)
    saved = copy.deepcopy(optimizer.state_dict())
    assert saved["state"]["epoch"] == 7
    other, others = trained(theirs, 1)
    other.load_state_dict(saved)
    for p in others:
        p.grad = torch.ones_like(p)
    other.step()
    assert other.state["epoch"] == 7
    assert other.state[others[0]]["note"].tolist() == [0, 1]
    assert other.state_dict()["state"]["epoch"] == 7
    if isinstance(other, sw.Optimizer):
        assert other.state_bytes() == 2 * 4 * 16 + 16
    copy.deepcopy(other)


@pytest.mark.parametrize("make", [sw.SGD, lambda p: sw.SAM(sw.SGD(p)), lambda p: sw.Lookahead(sw.SGD(p))])
def test_a_hook_may_write_into_the_state(make: Any) -> None:
    optimizer = make([torch.ones(2, requires_grad=True)])

    def before(optimizer: Any) -> None:
        optimizer.state["test"] = 1

    def after(optimizer: Any, saved: dict[str, Any]) -> None:
        saved["ran"] = saved["state"].pop("test")

    optimizer.register_state_dict_pre_hook(before)
    optimizer.register_state_dict_post_hook(after)
    assert optimizer.state_dict()["ran"] == 1


def test_the_state_of_a_parameter_that_left_its_group_is_not_saved() -> None:
    optimizer, _ = trained()
    del optimizer.param_groups[0]["params"][1], optimizer.param_groups[0]["param_names"][1]
    assert list(optimizer.state_dict()["state"]) == [0]


def test_own_keys_of_groups_are_carried_by_constructor_and_checkpoint() -> None:
    p = torch.ones(2, requires_grad=True)
    optimizer = sw.AdamW([{"params": [p], "lr_scale": 0.5, "mark": [1]}])
    optimizer.add_param_group({"params": [torch.ones(2, requires_grad=True)], "layer_id": 3})
    other = sw.AdamW([{"params": [p]}, {"params": [torch.ones(2, requires_grad=True)]}])
    other.load_state_dict(optimizer.state_dict())
    assert (other.param_groups[0]["lr_scale"], other.param_groups[1]["layer_id"]) == (0.5, 3)


@pytest.mark.parametrize("key", ["lr_scale", "lr_mult", "mark", "stage", "layer_id", "max_lr", "name_of_block", 3])
def test_own_keys(key: Any) -> None:
    assert is_own_key(key, sw.AdamW([torch.ones(1)]).defaults)


@pytest.mark.parametrize(
    "key", ["beta", "weight_decy", "lrr", "LR", "wd", "learning_rate", "momentum", "betas_", "weight-decay", "epss"]
)
def test_no_own_keys(key: str) -> None:
    assert not is_own_key(key, sw.AdamW([torch.ones(1)]).defaults)
    with pytest.raises(UsageError, match=f"unknown option {key}="):
        sw.AdamW([{"params": [torch.ones(1, requires_grad=True)], key: 0.5}])


# Numbers as configurations bring them


class Listed(Sequence[float]):
    """As OmegaConf's ListConfig: a sequence that is no list."""

    def __init__(self, *values: float) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, place: Any) -> Any:
        return self.values[place]


@pytest.mark.parametrize(
    "betas", [[0.9, 0.99], Listed(0.9, 0.99), np.array([0.9, 0.99]), torch.tensor([0.9, 0.99], dtype=torch.float64)]
)
def test_betas_may_be_any_sequence(betas: Any) -> None:
    p = torch.ones(2, requires_grad=True)
    for optimizer in (sw.AdamW([p], betas=betas), sw.AdamW([{"params": [p], "betas": betas}])):
        assert optimizer.param_groups[0]["betas"] == (0.9, 0.99)
        assert type(optimizer.param_groups[0]["betas"][0]) is float
        p.grad = torch.ones(2)
        optimizer.step()
    saved = sw.AdamW([p]).state_dict()
    saved["param_groups"][0]["betas"] = betas
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.99)


def test_numbers_of_numpy_become_plain_ones() -> None:
    optimizer = sw.SGD([torch.ones(2, requires_grad=True)], lr=np.float64(0.1), nesterov=np.False_)  # type: ignore[arg-type]
    assert type(optimizer.param_groups[0]["lr"]) is float
    assert optimizer.param_groups[0]["nesterov"] is False


@pytest.mark.parametrize(
    "betas", [{0.9, 0.99}, iter([0.9, 0.99]), np.array([[0.9, 0.99]]), "ab", [0.9, "x"], [0.9, 1j]]
)
def test_what_is_no_sequence_of_numbers_is_refused(betas: Any) -> None:
    with pytest.raises(UsageError, match="betas="):
        sw.AdamW([torch.ones(2, requires_grad=True)], betas=betas)


@pytest.mark.parametrize("name", [name for name in TABLE if find(name).facts.kind != "wrapper"])
def test_an_optimizer_is_made_again_of_its_defaults(name: str) -> None:
    cls: Any = find(name)
    options = {"Muon": {"adamw_lr": 0.5}, "MARS": {"adamw_lr": 0.5, "optimize_1d": False}}.get(name, {})
    params = [torch.ones(3, 4, requires_grad=True), torch.ones(4, requires_grad=True)]
    one = cls(params, lr=0.25, **options)
    other = type(one)(params, **one.defaults)
    assert other.defaults == one.defaults
    without = [[{k: v for k, v in group.items() if k != "params"} for group in o.param_groups] for o in (one, other)]
    assert without[0] == without[1]


# Names


@pytest.mark.parametrize("first", ["", "_orig_mod.", "module.", "module._orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("second", ["", "_orig_mod.", "module.", "_fsdp_wrapped_module.", "module.module."])
def test_names_are_seen_through_what_wraps_a_model(first: str, second: str) -> None:
    names = ["0.weight", "0.bias", "head.weight"]
    here, there = [first + name for name in names], [second + name for name in reversed(names)]
    assert prefixes.paired(here, there) == {first + name: second + name for name in names}


def test_names_inside_a_model() -> None:
    assert prefixes.paired(["a._checkpoint_wrapped_module.w", "b.module.w"], ["a.w", "b.w"]) is not None
    assert prefixes.paired(["a.module.w", "a.w"], ["a.module.w", "a.w"]) == {"a.module.w": "a.module.w", "a.w": "a.w"}
    assert prefixes.paired(["a.w"], ["b.w"]) is None
    assert prefixes.paired(["module.a.w", "a.w"], ["a.w", "b.w"]) is None


# What does not fit


def _set(*path: Any) -> Callable[[Any], None]:
    *places, last, value = path

    def change(saved: Any) -> None:
        for place in places:
            saved = saved[place]
        saved[last] = value

    return change


def _drop(*path: Any) -> Callable[[Any], None]:
    *places, last = path

    def change(saved: Any) -> None:
        for place in places:
            saved = saved[place]
        del saved[last]

    return change


MISFITS: dict[str, tuple[Callable[[Any], None], str]] = {
    "lr nan": (_set("param_groups", 0, "lr", float("nan")), "group 0 of the checkpoint: lr=nan"),
    "lr None": (_set("param_groups", 0, "lr", None), "lr=None is not a number"),
    "lr complex": (_set("param_groups", 0, "lr", torch.tensor(1j)), "lr=.*is not a number"),
    "lr huge": (_set("param_groups", 0, "lr", 10**400), "lr=an int of .*out of range"),
    "initial_lr": (_set("param_groups", 0, "initial_lr", float("nan")), "initial_lr=nan"),
    "betas": (_set("param_groups", 0, "betas", "fp32"), "betas='fp32' is not 2 numbers"),
    "state": (_set("param_groups", 0, "state", np.zeros(2)), "state="),
    "maximize": (_set("param_groups", 0, "maximize", "no"), "maximize='no'"),
    "step negative": (_set("state", 0, "step", -5), "'step' of the parameter 'w' is -5"),
    "step missing": (_drop("state", 0, "step"), "lacks 'step' for the parameter 'w'"),
    "slots missing": (
        lambda saved: (_drop("state", 0, "exp_avg")(saved), _drop("state", 0, "exp_avg_sq")(saved)),
        "lacks",
    ),  # type: ignore[arg-type, return-value]
    "slot complex": (
        _set("state", 1, "exp_avg", torch.zeros(4, dtype=torch.complex64)),
        "'exp_avg' of.*is complex",
    ),
    "slot meta": (_set("state", 1, "exp_avg", torch.zeros(4, device="meta")), "'exp_avg' of.*'b' is on the meta"),
    "slot nan": (_set("state", 1, "exp_avg", torch.full((4,), float("nan"))), "'exp_avg' of.*'b' holds nan"),
    "slot negative": (_set("state", 1, "exp_avg_sq", -torch.ones(4)), "'exp_avg_sq' of.*'b' holds negative"),
    "list cut": (_set("param_groups", 0, "params", [0]), "must be a list of 1 names"),
    "index twice": (_set("param_groups", 0, "params", [0, 0]), "has 0 twice"),
    "unhashable": (_set("param_groups", 0, "params", [[0], [1]]), "contains a list"),
    "no group": (_set("param_groups", 0, 3), "group 0 of the checkpoint is a int"),
    "stray": (_set("state", 9, {"step": 1}), "state of a parameter 9"),
    "no slots": (_set("state", 0, 3), "the state of 0 in the checkpoint is a int"),
    "cautious": (_set("param_groups", 0, "cautious", 1), "cautious=1"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_what_does_not_fit_is_named_and_changes_nothing(name: str) -> None:
    change, said = MISFITS[name]
    saved = copy.deepcopy(trained()[0].state_dict())
    change(saved)
    optimizer, params = trained(steps=3)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(UsageError, match=said):
        optimizer.load_state_dict(saved)
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for index in range(len(params)):
        assert all(torch.equal(after["state"][index][key], value) for key, value in before["state"][index].items())


def test_a_number_that_all_share_is_one() -> None:
    optimizer, _ = trained(sw.Prodigy)
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"][1]["d"] = saved["state"][1]["d"] * 2
    with pytest.raises(UsageError, match=r"'d' is .* of the parameter 'b' .* share this number"):
        optimizer.load_state_dict(saved)


def test_no_state_is_loaded_for_parameters_without_values() -> None:
    saved = trained()[0].state_dict()
    params = [nn.Parameter(torch.empty(shape, device="meta")) for shape in ((3, 4), (4,))]
    optimizer = sw.AdamW(list(zip(["w", "b"], params, strict=True)))
    with pytest.raises(UsageError, match=r"'w' is on the meta device.*then the optimizer of its new parameters"):
        optimizer.load_state_dict(saved)


@pytest.mark.parametrize("value", [None, [1.0], "fast"])
def test_what_is_no_number_in_a_live_group_is_refused_at_the_step(value: Any) -> None:
    optimizer, params = trained()
    before = params[0].detach().clone()
    optimizer.param_groups[0]["lr"] = value
    with pytest.raises(UsageError, match=r"lr=.* in group 0 is not (a|one) number"):
        optimizer.step()
    assert torch.equal(params[0], before)


@pytest.mark.parametrize("name", [name for name in TABLE if hasattr(find(name), "signatures")])
def test_a_checkpoint_knows_the_slots_of_every_optimizer(name: str) -> None:
    slots = {slot.name for signature in find(name).signatures.values() for slot in signature.slots}
    unknown = slots - checkpoint._SLOTS
    assert not unknown, f"add {', '.join(sorted(unknown))} of {name} to _SLOT_NAMES in engine/checkpoint.py"
