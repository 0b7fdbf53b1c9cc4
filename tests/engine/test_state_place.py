"""State that is moved away and back, and state on the CPU for parameters that are elsewhere.

Without a GPU, parameters of the CPU are said to be elsewhere: then they are updated in a copy, as those of a GPU are.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import stepwell as sw
from stepwell.engine import host
from stepwell.errors import UsageError
from stepwell.optimizers import find
from tests.step.small import same

_ON_A_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]
OTHER = pytest.param("cuda", marks=_ON_A_GPU)
FORMATS: dict[str, tuple[torch.dtype, dict[str, Any]]] = {
    "fp32": (torch.float32, {}),
    "bf16": (torch.float32, {"state": "bf16"}),
    "int8": (torch.float32, {"state": "int8"}),
    "int4": (torch.float32, {"state": "int4"}),
    "split": (torch.bfloat16, {"weights": "split"}),
    "stochastic": (torch.bfloat16, {"weights": "stochastic", "state": "bf16"}),
    "cautious": (torch.float32, {"cautious": True}),
}


def parameters(dtype: torch.dtype, device: str = "cpu") -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((70, 66), (9,), (64, 80))
    found = [torch.randn(shape, generator=generator).to(dtype).to(device) for shape in shapes]
    found[2] = found[2].t()
    return [nn.Parameter(one) for one in found]


def step(tensors: list[nn.Parameter], optimizer: Any, turn: int) -> None:
    generator = torch.Generator().manual_seed(1 + turn)
    for p in tensors:
        p.grad = torch.randn(p.shape, generator=generator).to(p.dtype).to(p.device)
    optimizer.step()


def trained(name: str, format_: str, act: Any = None, device: str = "cpu", **more: Any) -> tuple[list[Tensor], Any]:
    dtype, options = FORMATS[format_]
    tensors = parameters(dtype, device)
    optimizer = find(name)(tensors, lr=0.01, **options, **more)
    for turn in range(4):
        step(tensors, optimizer, turn)
        if act is not None:
            act(optimizer)
    return [p.detach().cpu() for p in tensors], optimizer


@pytest.mark.parametrize("device", ["cpu", OTHER])
@pytest.mark.parametrize("format_", FORMATS)
def test_state_comes_back_bit_for_bit(format_: str, device: str) -> None:
    def away(optimizer: Any) -> None:
        before = copy.deepcopy(optimizer.state_dict()["state"])
        optimizer.offload("cpu")
        held = [v for s in optimizer.state.values() for v in s.values() if v.numel() > 1]
        assert held
        assert all(value.device.type == "cpu" for value in held)
        optimizer.onload()
        assert same(before, optimizer.state_dict()["state"])
        optimizer.offload()

    ours, _ = trained("AdamW", format_, away, device)
    theirs, _ = trained("AdamW", format_, None, device)
    assert all(map(torch.equal, ours, theirs))


def test_offload_of_wrappers_and_before_the_first_step() -> None:
    tensors = parameters(torch.float32)
    optimizer = sw.Lookahead(sw.AdamW(tensors, lr=0.01))
    optimizer.offload("cpu")
    step(tensors, optimizer, 0)
    optimizer.offload("cpu")
    step(tensors, optimizer, 1)
    optimizer.onload()
    other = sw.Lookahead(torch.optim.AdamW(tensors))
    with pytest.raises(UsageError, match=r"Lookahead: AdamW has no offload\(\)"):
        other.offload("cpu")


@pytest.mark.parametrize("device", ["meta", "cuda:99", "nowhere", 3.5, None])
def test_a_device_that_is_not_there_is_refused(device: Any) -> None:
    tensors = parameters(torch.float32)
    optimizer = sw.AdamW(tensors)
    step(tensors, optimizer, 0)
    before = copy.deepcopy(optimizer.state_dict()["state"])
    with pytest.raises(UsageError, match="AdamW: device="):
        optimizer.offload(device)
    assert same(before, optimizer.state_dict()["state"])


def test_state_device_is_refused_where_the_state_is_there_already() -> None:
    with pytest.raises(UsageError, match="state_device='cpu' is for parameters on a GPU: these are on the cpu device"):
        sw.AdamW(parameters(torch.float32), state_device="cpu")
    with pytest.raises(UsageError, match="state_device='disk'"):
        sw.AdamW(parameters(torch.float32), state_device="disk")  # type: ignore[arg-type]  # which is refused
    assert sw.AdamW(parameters(torch.float32), state_device=None).state_device is None


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "is_apart", lambda tensor: True)


NAMES = ("AdamW", "SGD", "Lion", "LAMB", "NAdam", "Prodigy", "Adafactor", "SOAP")


@pytest.mark.parametrize(
    ("name", "format_"), [*[("AdamW", format_) for format_ in FORMATS], *[(name, "fp32") for name in NAMES[1:]]]
)
def test_an_update_in_a_copy_is_the_update(name: str, format_: str, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, _ = trained(name, format_)
    monkeypatch.setattr(host, "is_apart", lambda tensor: True)
    ours, optimizer = trained(name, format_, state_device="cpu")
    assert all(map(torch.equal, ours, theirs))
    launches = optimizer._plan.launches
    assert all(launch.host is not None for launch in launches)
    assert {id(p) for launch in launches for p in launch.tensors}.isdisjoint(
        id(p) for group in optimizer.param_groups for p in group["params"]
    )


@pytest.mark.parametrize("device", [OTHER])
@pytest.mark.parametrize("format_", FORMATS)
def test_on_a_gpu(format_: str, device: str) -> None:
    ours, optimizer = trained("AdamW", format_, None, device, state_device="cpu")
    theirs, _ = trained("AdamW", format_, None, "cpu")
    assert all(map(torch.equal, ours, theirs))  # the kernel is that of the CPU
    held = [value for state in optimizer.state.values() for value in state.values()]
    assert all(value.device.type == "cpu" for value in held)


@pytest.mark.usefixtures("elsewhere")
def test_weights_that_somebody_changes_count_and_skipped_updates_change_nothing() -> None:
    tensors = parameters(torch.float32)
    optimizer = sw.AdamW(tensors, lr=0.01, state_device="cpu")
    step(tensors, optimizer, 0)
    with torch.no_grad():
        tensors[0].fill_(7.0)
    step(tensors, optimizer, 1)
    assert ((tensors[0] - 7).abs() < 0.1).all()
    before = [p.detach().clone() for p in tensors]
    optimizer.update(1.0, torch.ones(()))
    assert all(map(torch.equal, before, tensors))
    version = tensors[0]._version
    optimizer.gradient_norm()
    assert tensors[0]._version == version
    tensors[1].data = torch.zeros(13)  # another parameter, in place
    tensors[1].grad = torch.ones(13)
    del optimizer.state[tensors[1]]
    optimizer.step()
    assert tensors[1].shape == (13,)
    assert (tensors[1] != 0).all()


@pytest.mark.usefixtures("elsewhere")
def test_with_a_step_that_releases_gradients_and_a_checkpoint(tmp_path: Any) -> None:
    def make() -> Any:
        torch.manual_seed(0)
        model = nn.Linear(66, 70)
        optimizer = sw.AdamW(model.named_parameters(), lr=0.01, state="int8", state_device="cpu")
        return model, sw.Step(optimizer, sw.schedules.linear(9), release=True, model=model)

    x = torch.randn(4, 66, generator=torch.Generator().manual_seed(0))
    model, released = make()
    for _ in range(2):
        released(model(x).square().mean())
    released.save(tmp_path / "checkpoint.pt")
    for _ in range(2):
        released(model(x).square().mean())
    again, resumed = make()
    resumed.load(tmp_path / "checkpoint.pt")
    for _ in range(2):
        resumed(again(x).square().mean())
    assert torch.equal(model.weight, again.weight)
    twin = copy.deepcopy(resumed.optimizer)
    assert twin.state_device == "cpu"
    assert resumed.switch("lion", lr=0.001).state_device == "cpu"


def test_a_model_in_two_places_has_a_launch_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = nn.Parameter(torch.ones(9000)), nn.Parameter(torch.ones(9000))
    monkeypatch.setattr(host, "is_apart", lambda tensor: tensor.data_ptr() == b.data_ptr())
    optimizer = sw.AdamW([a, b], lr=0.1, state_device="cpu")
    a.grad, b.grad = torch.ones(9000), torch.ones(9000)
    with torch.no_grad():
        optimizer.step()
    assert torch.equal(a, b)
    assert float(a[0].detach()) < 1


def test_optimizers_that_use_their_state_outside_of_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = parameters(torch.float32)
    optimizer = sw.ScheduleFreeAdamW(tensors, lr=0.01)
    step(tensors, optimizer, 0)
    optimizer.offload("cpu")
    assert optimizer.is_away
    optimizer.eval()
    assert not optimizer.is_away
    monkeypatch.setattr(host, "is_apart", lambda tensor: True)
    for cls in (sw.ScheduleFreeAdamW, sw.Sophia):
        with pytest.raises(UsageError, match="works with weights and state outside of updates"):
            cls(parameters(torch.float32), state_device="cpu")


def test_tensors_of_a_user_stay_where_they_are() -> None:
    tensors = parameters(torch.float32)
    optimizer = sw.AdamW(tensors)
    step(tensors, optimizer, 0)
    mine = torch.ones(5)
    optimizer.state[tensors[0]]["mine"] = mine
    optimizer.offload("cpu")
    assert optimizer.state[tensors[0]]["mine"] is mine
