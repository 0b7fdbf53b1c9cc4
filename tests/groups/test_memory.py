"""The forecast is what training really allocates, and the table adds up."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from stepwell import optimizers
from stepwell.errors import UsageError
from stepwell.groups import by_role, device_memory, find_roles, forecast, freeze, muon, rows
from stepwell.groups.memory import bytes_text, group_state_bytes
from stepwell.optimizers import SAM, TABLE, Lookahead, find
from tests.anatomy import lookalikes as look


def trained(optimizer: Any) -> int:
    """Bytes of state after one step, beside step counts."""
    for group in optimizer.param_groups:
        for tensor in group["params"]:
            tensor.grad = torch.ones_like(tensor)
    optimizer.step()
    return sum(
        value.numel() * value.element_size()
        for state in optimizer.state.values()
        for name, value in state.items()
        if isinstance(value, torch.Tensor) and name != "step"
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("AdamW", {}),
        ("AdamW", {"amsgrad": True}),
        ("Adam", {}),
        ("SGD", {"momentum": 0.9}),
        ("SGD", {}),
        ("RMSprop", {}),
        ("RMSprop", {"momentum": 0.5, "centered": True}),
        ("Adagrad", {}),
        ("Lion", {}),
    ],
)
def test_state_is_what_the_optimizers_allocate(name: str, options: dict[str, Any], dtype: torch.dtype) -> None:
    groups = by_role(look.torchvision_resnet().to(dtype), no_decay=())
    makers = [optimizers.find(name), getattr(torch.optim, name, None)]
    for make in [m for m in makers if m is not None]:
        optimizer = make(groups, lr=0.1, **options)
        foretold = forecast(groups, optimizer=optimizer)
        assert foretold.state == trained(optimizer)
        assert (
            foretold.gradients
            == foretold.weights
            == sum(p.numel() * p.element_size() for g in groups for p in g["params"])
        )


def test_wrappers_are_counted_with_what_is_inside() -> None:
    groups = by_role(look.torchvision_resnet(), no_decay=())
    for make, copies in ((SAM, 0), (Lookahead, 1)):
        optimizer = make(optimizers.find("adamw")(groups))
        foretold = forecast(groups, optimizer=optimizer).state
        assert foretold == forecast(groups, optimizer="adamw").state * (2 + copies) / 2
        assert forecast(groups, optimizer=make).state == make.bytes_per_element(**make.facts.compare_options) * sum(
            p.numel() for group in groups for p in group["params"]
        )
    assert forecast(groups, optimizer="Lookahead").state == forecast(groups, optimizer=Lookahead).state


def test_muons_split_is_counted_by_each_ones_optimizer() -> None:
    model = look.timm_vit()
    groups = muon(model, lr=0.02)
    inner = torch.optim.AdamW(groups.of("adamw"))
    outer = torch.optim.Muon(groups.of("muon"))
    assert forecast(groups).state == trained(inner) + trained(outer)


def test_frozen_parts_need_no_gradient_and_no_state() -> None:
    model = look.torchvision_resnet()
    freeze(model, "layer1", "layer2")
    groups = by_role(model, keep_frozen=True)
    live = 4 * sum(p.numel() for p in model.parameters() if p.requires_grad)
    foretold = forecast(groups, optimizer="adamw", averages=2, buffers=model.buffers())
    assert (foretold.gradients, foretold.state, foretold.averages) == (live, 2 * live, 2 * live)
    assert foretold.frozen == foretold.weights - live > 0
    assert foretold.buffers == sum(b.numel() * b.element_size() for b in model.buffers())
    assert forecast(by_role(model), optimizer="adamw") == forecast(groups, optimizer="adamw")


def test_formats() -> None:
    model = nn.Linear(256, 256, bias=False).to(torch.bfloat16)
    groups = by_role(model)
    n = 256 * 256
    assert forecast(groups, state="fp32").state == 8 * n
    assert forecast(groups, state="bf16").state == 4 * n
    assert forecast(groups, state="int8").state == 2 * (n + 4 * n // 256)
    assert forecast(groups, state="int4").state == 2 * (n // 2 + 4 * n // 128)
    assert forecast(groups).weights == 2 * n
    assert forecast(groups, optimizer="adafactor").state == 4 * 512
    assert forecast(groups, optimizer="soap").state == 4 * (2 * n + 4 * n)


def test_whether_it_fits() -> None:
    groups = by_role(nn.Linear(512, 512, bias=False))  # 1 MiB: 1 + 1 + 2
    assert forecast(groups).fits is None
    assert "measure one step" in str(forecast(groups))
    enough = forecast(groups, available=5 * 2**20, where="the card")
    assert (enough.total, enough.left, enough.fits) == (4 * 2**20, 2**20, True)
    assert "1 MiB are left for activations" in str(enough)
    assert "the card has" in str(enough)
    short = forecast(groups, available=3 * 2**20)
    assert short.fits is False
    assert "does not fit: 1 MiB too much" in str(short)


def test_the_table_shows_every_group_and_adds_up() -> None:
    model = look.timm_vit()
    groups = muon(model, lr=0.02, adamw={"lr": 3e-4, "weight_decay": 0.1})
    found = rows(groups)
    assert sum(row.elements for row in found) == sum(p.numel() for p in model.parameters())
    assert sum(row.tensors for row in found) == len(list(model.parameters()))
    assert {(row.optimizer, row.lr, row.decay) for row in found} == {
        ("muon", 0.02, None),
        ("adamw", 3e-4, 0.1),
        ("adamw", 3e-4, 0.0),
    }
    assert {role for row in found for role in row.role.split(", ")} == {m.role for m in find_roles(model).members}
    lines = str(groups).splitlines()
    assert lines[0].split() == ["group", "tensors", "elements", "lr", "decay", "optimizer", "format", "bytes", "state"]
    assert lines[2].split() == [
        "muon:",
        "matrix",
        "16",
        "3,072",
        "0.02",
        "default",
        "muon",
        "fp32",
        "12",
        "KiB",
        "12",
        "KiB",
    ]
    assert lines[-1].split()[:3] == ["together", "60", "9,826"]
    assert "default" in str(by_role(model))
    narrow = groups.table(width=100).splitlines()
    assert max(len(line) for line in narrow) <= 100


def test_mixed_formats_are_named() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4).to(torch.bfloat16))
    (row,) = rows(by_role(model, no_decay=()), optimizer=optimizers.find("lion"), state="bf16")
    assert (row.format, row.bytes, row.state, row.optimizer) == ("fp32, bf16", 20 * 4 + 20 * 2, 40 * 2, "Lion")


def test_device_memory() -> None:
    free, where = device_memory("cpu")
    assert free is None or 2**20 < free < 2**50
    assert where == "this machine"
    with pytest.raises(UsageError, match="unknown device 'gpu'"):
        device_memory("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="this machine has no CUDA device"):
            device_memory("cuda")


def test_refusals() -> None:
    groups = by_role(nn.Linear(2, 2))
    with pytest.raises(UsageError, match="the size of the state of 'lionn' is not known: did you mean 'lion'"):
        forecast(groups, optimizer="lionn")
    with pytest.raises(UsageError, match="state='int7': did you mean 'int8'"):
        forecast(groups, state="int7")
    with pytest.raises(UsageError, match="averages=-1; it must be a whole number"):
        forecast(groups, averages=-1)


def test_sizes_for_people() -> None:
    assert [bytes_text(n) for n in (0, 1023, 1536, 5 * 2**20, 1010 * 2**20, 3 * 2**40)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "5 MiB",
        "1010 MiB",
        "3 TiB",
    ]


BY_RULE = [name for name in TABLE if find(name).facts.kind not in ("closure", "wrapper")]


@pytest.mark.parametrize("state", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("name", BY_RULE)
def test_forecast_of_a_class_is_what_it_keeps(name: str, state: str) -> None:
    """Matrices, vectors, a kernel, a small tensor and an embedding, after one step."""
    cls = find(name)
    if name in ("AdamW8bit", "AdamW4bit"):
        state = cls([torch.zeros(1)]).param_groups[0]["state"]  # their name says it
    shapes = ((80, 70), (5000,), (7,), (6, 4, 3, 3), (120, 40))
    params = [torch.ones(shape, requires_grad=True) for shape in shapes]
    optimizer = cls(params, **{"state": state, **cls.facts.compare_options})
    for p in params:
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(0))
    optimizer.step()
    assert round(group_state_bytes({"params": params}, cls, state)) == optimizer.state_bytes()
