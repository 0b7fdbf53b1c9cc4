"""The state of what wraps an optimizer: torch's layout, so that whatever reads it finds what it looks for."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

import stepwell as sw
from stepwell.errors import UsageError
from tests.step.small import data, flat, loss, model

INSIDE: dict[str, Any] = {
    "SGD": lambda p: sw.SGD(p, lr=0.1, momentum=0.9),
    "AdamW": lambda p: sw.AdamW(p, lr=0.1),
    "torch's SGD": lambda p: torch.optim.SGD(p, lr=0.1),
    "torch's AdamW": lambda p: torch.optim.AdamW(p, lr=0.1),
}
AROUND: dict[str, Any] = {
    "SAM": lambda inside: sw.SAM(inside, rho=0.1),
    "ASAM": lambda inside: sw.ASAM(inside, rho=0.2, eta=0.1),
    "Lookahead": lambda inside: sw.Lookahead(inside, k=3, alpha=0.7),
    "Lookahead(SAM)": lambda inside: sw.Lookahead(sw.SAM(inside), k=3),
}


def run(network: nn.Module, optimizer: Any, steps: int) -> None:
    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(network, *data())
        value.backward()
        return value

    for _ in range(steps):
        optimizer.step(closure)


def begun(around: str, inside: str, steps: int = 4) -> tuple[nn.Module, Any]:
    network = model()
    optimizer = AROUND[around](INSIDE[inside](network.named_parameters()))
    run(network, optimizer, steps)
    return network, optimizer


@pytest.mark.parametrize("inside", INSIDE)
@pytest.mark.parametrize("around", AROUND)
def test_the_layout_is_that_of_torch_and_what_is_inside_loads_it(around: str, inside: str) -> None:
    network, optimizer = begun(around, inside)
    saved = optimizer.state_dict()
    assert set(saved) == {"state", "param_groups"}
    assert saved["param_groups"][0]["lr"] == 0.1
    assert saved["param_groups"][0]["params"] == list(range(len(list(network.parameters()))))
    of_base = optimizer.base
    while hasattr(of_base, "base"):
        of_base = of_base.base
    for index, slots in of_base.state_dict()["state"].items():
        for key, value in slots.items():
            assert saved["state"][index][key] is value
    theirs = torch.optim.AdamW(model().parameters()) if "AdamW" in inside else torch.optim.SGD(model().parameters())
    theirs.load_state_dict(copy.deepcopy(saved))
    assert theirs.param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize("inside", INSIDE)
@pytest.mark.parametrize("around", AROUND)
def test_a_checkpoint_of_what_is_inside_loads(around: str, inside: str) -> None:
    """The wrapper then begins anew: as one that is put around the optimizer at that place."""
    network, plain = model(), INSIDE[inside](model().named_parameters())
    plain = INSIDE[inside](network.named_parameters())
    run(network, plain, 3)
    saved = copy.deepcopy(plain.state_dict())
    other, optimizer = begun(around, inside)
    other.load_state_dict(network.state_dict())
    optimizer.load_state_dict(saved)
    fresh = AROUND[around](plain)
    run(network, fresh, 4)
    run(other, optimizer, 4)
    assert torch.equal(flat(network), flat(other))


@pytest.mark.parametrize("inside", INSIDE)
@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("full", [False, True])
def test_distributed_checkpoints_hold_all(around: str, inside: str, full: bool) -> None:
    if full and inside == "torch's SGD" and "Lookahead" not in around:
        pytest.skip("torch cannot gather a state without any tensor")
    options = StateDictOptions(full_state_dict=full)
    network, optimizer = begun(around, inside)
    saved = copy.deepcopy(get_optimizer_state_dict(network, optimizer, options=options))
    other = model()
    other.load_state_dict(network.state_dict())
    resumed = AROUND[around](INSIDE[inside](other.named_parameters()))
    set_optimizer_state_dict(other, resumed, saved, options=options)
    for one, its in ((network, optimizer), (other, resumed)):
        run(one, its, 4)
    assert torch.equal(flat(network), flat(other))


def test_a_state_of_the_layout_before_is_read() -> None:
    network, optimizer = begun("Lookahead", "AdamW")
    places = {id(p): place for place, p in enumerate(network.parameters())}
    before = {
        "wrapper": "Lookahead",
        "settings": {name: getattr(optimizer, name) for name in optimizer.settings},
        "own": {places[id(p)]: dict(kept) for p, kept in optimizer.own.items()},
        "base": optimizer.base.state_dict(),
    }
    other, resumed = begun("Lookahead", "AdamW", 1)
    other.load_state_dict(network.state_dict())
    resumed.load_state_dict(copy.deepcopy(before))
    for one, its in ((network, optimizer), (other, resumed)):
        run(one, its, 4)
    assert torch.equal(flat(network), flat(other))


def test_slow_weights_are_not_lost_without_a_word() -> None:
    network, optimizer = begun("Lookahead", "AdamW")
    plain = sw.AdamW(network.named_parameters())
    with pytest.raises(UsageError, match=r"of Lookahead around another.*'lookahead_slow' would be lost.*its `base`"):
        plain.load_state_dict(optimizer.state_dict())
    of_sam = begun("SAM", "AdamW")[1]
    plain.load_state_dict(of_sam.state_dict())  # which keeps nothing
    assert plain.param_groups[0]["lr"] == 0.1


SETTINGS = [
    ("Lookahead", {"k": 0}, "k=0; it must be a whole number of at least 1"),
    ("Lookahead", {"k": 2.5}, "k=2.5"),
    ("Lookahead", {"alpha": float("nan")}, "alpha=nan"),
    ("Lookahead", {"pullback": 3}, "pullback=3"),
    ("Lookahead", {"clock": -1}, "clock=-1"),
    ("SAM", {"rho": -0.1}, "rho=-0.1"),
    ("ASAM", {"eta": "x"}, "eta='x'"),
]


@pytest.mark.parametrize(("around", "changed", "said"), SETTINGS)
def test_settings_that_are_none_are_refused(around: str, changed: dict[str, Any], said: str) -> None:
    _, optimizer = begun(around, "AdamW")
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][0]["wrappers"][around].update(changed)
    before = copy.deepcopy(optimizer.state_dict()["param_groups"])
    with pytest.raises(UsageError, match=said):
        optimizer.load_state_dict(saved)
    assert optimizer.state_dict()["param_groups"] == before


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("inside", ["SGD", "torch's SGD"])
def test_without_any_gradient_nothing_moves(around: str, inside: str) -> None:
    p = torch.ones(3, requires_grad=True)
    optimizer = AROUND[around](INSIDE[inside]([p]))
    assert optimizer.step(lambda: torch.tensor(1.5)) == 1.5
    assert p.tolist() == [1.0] * 3
    if "SAM" in around:  # nobody has looked for a gradient
        with pytest.raises(UsageError, match="needs a closure"):
            optimizer.step()


# Hooks and ranges


def test_hooks_see_the_closure_as_it_was_passed() -> None:
    seen: dict[str, list[Any]] = {}
    for cls in (sw.SGD, torch.optim.SGD, sw.AdamW):
        p = torch.ones(3, requires_grad=True)
        optimizer = cls([p], lr=0.1)
        calls: list[Any] = []

        def note(optimizer: Any, args: Any, kwargs: Any, calls: list[Any] = calls) -> None:
            calls.append((len(args), list(kwargs)))

        optimizer.register_step_pre_hook(note)
        optimizer.register_step_post_hook(note)
        optimizer.step()
        optimizer.step(lambda: 1.0)
        optimizer.step(closure=lambda: 1.0)
        optimizer.step(None)
        seen[cls.__module__] = calls
    assert len(set(map(str, seen.values()))) == 1


@pytest.mark.parametrize("make", [sw.SGD, lambda p: sw.Lookahead(sw.SGD(p))])
def test_dropping_gradients_has_its_range_in_a_profile(make: Any) -> None:
    optimizer = make([torch.ones(3, requires_grad=True)])
    with torch.autograd.profiler.profile() as profile:
        optimizer.zero_grad()
    name = type(optimizer).__name__
    assert f"Optimizer.zero_grad#{name}.zero_grad" in {event.name for event in profile.function_events}


# Parameters that are none


@pytest.mark.parametrize("name", ["AdamW", "Muon", "MARS", "LBFGS"])
@pytest.mark.parametrize("params", [torch.ones(3), 3, [3], [torch.ones(3), "x"], [{"params": 3}]], ids=repr)
def test_params_of_another_type_are_a_type_error_and_a_usage_error(name: str, params: Any) -> None:
    with pytest.raises(TypeError) as refused:
        getattr(sw, name)(params)
    assert isinstance(refused.value, UsageError)


@pytest.mark.parametrize(
    ("p", "said"),
    [
        (torch.zeros(3, 3).to_sparse(), "is sparse_coo; parameters must be dense"),
        (torch.zeros(3, dtype=torch.complex64), r"is complex .*nn.Parameter\(torch.view_as_real\(w.detach\(\)\)"),
        (torch.zeros(3).to(torch.float8_e4m3fn), "is a float of few bits .float8_e4m3fn.*bfloat16"),
        (torch.zeros(3, dtype=torch.bool), "is boolean"),
    ],
    ids=["sparse", "complex", "float8", "bool"],
)
def test_parameters_that_are_not_trained_are_refused_at_construction(p: Tensor, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        sw.AdamW([("w", p)])


def test_the_advice_for_complex_parameters_can_be_followed() -> None:
    w = torch.randn(3, dtype=torch.complex64)
    parameter = nn.Parameter(torch.view_as_real(w.detach()).clone())
    optimizer = sw.AdamW([parameter])
    torch.view_as_complex(parameter).abs().sum().backward()
    optimizer.step()


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # of the import
def test_muon_says_what_a_zero_redundancy_optimizer_needs() -> None:
    from torch import distributed
    from torch.distributed.optim import ZeroRedundancyOptimizer

    distributed.init_process_group("gloo", rank=0, world_size=1, store=distributed.HashStore())
    try:
        matrix, vector = (torch.ones(shape, requires_grad=True) for shape in ((3, 4), (4,)))
        for cls, options, key in ((sw.Muon, {}, "use_muon"), (sw.MARS, {"optimize_1d": False}, "use_mars")):
            with pytest.raises(UsageError, match=f"inside ZeroRedundancyOptimizer.*'{key}': True"):
                ZeroRedundancyOptimizer([matrix, vector], cls, lr=0.1, **options)
            groups = [{"params": [matrix], key: True}, {"params": [vector], key: False}]
            optimizer = ZeroRedundancyOptimizer(groups, cls, lr=0.1, **options)
            matrix.grad, vector.grad = torch.ones(3, 4), torch.ones(4)
            optimizer.step()
            assert (matrix != 1).all()
    finally:
        distributed.destroy_process_group()
