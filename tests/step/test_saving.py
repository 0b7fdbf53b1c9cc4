"""Checkpoints: everything is in them, a file is whole or passed over, and another model's is refused."""

from __future__ import annotations

import copy
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from stepwell.errors import UsageError
from stepwell.optimizers import SGD, AdamW
from stepwell.schedules import Plateau, linear
from stepwell.step import AutoClip, Step
from tests.step.small import data, flat, loss, model, same

OPTIMIZERS: dict[str, Any] = {
    "AdamW": lambda network: AdamW(network.named_parameters(), lr=0.05),
    "AdamW int8": lambda network: AdamW(network.named_parameters(), lr=0.05, state="int8"),
    "torch": lambda network: torch.optim.AdamW(network.parameters(), lr=0.05),
    "torch's rows and columns": lambda network: torch.optim.Adafactor(network.parameters(), lr=0.05),
}


class Run:
    """A run that draws from every generator."""

    def __init__(self, make: Any) -> None:
        self.network = nn.Sequential(model(), nn.Dropout(0.5), nn.BatchNorm1d(3))
        self.generators = {
            "data": torch.Generator().manual_seed(3),
            "numpy": np.random.default_rng(4),
            "old numpy": np.random.Generator(np.random.MT19937(5)),
            "python": random.Random(6),
        }
        self.step = Step(
            make(self.network),
            linear(100),
            clip=AutoClip(50),
            scaler=torch.amp.GradScaler("cpu", init_scale=256.0, growth_interval=3),
            ema=0.9,
            plateau=Plateau(patience=0),
            model=self.network,
            generators=self.generators,
        )

    def seed(self) -> None:
        torch.manual_seed(1)
        np.random.seed(2)  # noqa: NPY002
        random.seed(3)

    def updates(self, count: int) -> None:
        g = self.generators
        for _ in range(count):
            noise = np.random.rand() + random.random() + g["numpy"].random() + g["old numpy"].random()  # noqa: NPY002
            x, y = data(seed=int(torch.randint(99, (1,), generator=g["data"])))
            done = self.step(loss(self.network, x + noise + g["python"].random(), y))
            self.step.observe(done.loss)

    def outcome(self) -> tuple[Any, ...]:
        buffers = [buffer.clone() for buffer in self.network.buffers()]
        with self.step.averaged():
            average = flat(self.network)
        return flat(self.network), average, buffers, self.step.optimizer.param_groups[0]["lr"]


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_run_goes_on_bit_for_bit(make: Any, tmp_path: Path) -> None:
    whole = Run(make)
    whole.seed()
    whole.updates(12)

    first = Run(make)
    first.seed()
    first.updates(5)
    first.step.save(tmp_path / "run.pt", extra={"epoch": 2})
    first.updates(2)  # lost

    second = Run(make)
    assert second.step.load(tmp_path / "run.pt") == {"epoch": 2}
    second.updates(7)
    for one, other in zip(whole.outcome(), second.outcome(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert second.step.number == 12


def test_the_last_k_are_kept_the_newest_first(tmp_path: Path) -> None:
    network = model()
    step = Step(SGD(network.named_parameters(), lr=0.1), model=network)
    for number in range(6):
        step.save(tmp_path / "a" / "run.pt", keep=3, extra=number)
    assert sorted(file.name for file in (tmp_path / "a").iterdir()) == ["run.1.pt", "run.2.pt", "run.pt"]
    assert [step.load(tmp_path / "a" / name) for name in ("run.pt", "run.1.pt", "run.2.pt")] == [5, 4, 3]
    step.save(tmp_path / "a" / "run.pt", keep=1, extra=6)
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["run.pt"]


DAMAGES: dict[str, Any] = {
    "empty": lambda content: b"",
    "one byte less": lambda content: content[:-1],
    "half": lambda content: content[: len(content) // 2],
    "a bit of a tensor": lambda content: _flipped(content),
    "text": lambda content: b"not a checkpoint",
}


def _flipped(content: bytes) -> bytes:
    weights = model()[0].weight.detach().numpy().tobytes()
    place = content.index(weights) + 10
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_passed_over_with_a_warning(damage: Any, tmp_path: Path) -> None:
    network = model()
    step = Step(SGD(network.named_parameters(), lr=0.0), model=network)  # the weights stay, to be found in the file
    path = tmp_path / "run.pt"
    for number in range(2):
        step.save(path, extra=number)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(UserWarning, match=r"run\.pt is cut short or damaged .* loaded .*run\.1\.pt instead"):
        assert step.load(path) == 0
    (tmp_path / "run.1.pt").write_bytes(damage((tmp_path / "run.1.pt").read_bytes()))
    with pytest.raises(UsageError, match=r"no checkpoint to load: .*run\.pt .*; .*run\.1\.pt"):
        step.load(path)


def test_a_file_of_another_kind_is_said_to_be_that(tmp_path: Path) -> None:
    torch.save({"model": model().state_dict()}, tmp_path / "run.pt")
    with pytest.raises(UsageError, match=r"run\.pt was not written by step\.save$"):
        Step(SGD(model().named_parameters(), lr=0.1)).load(tmp_path / "run.pt", model())


def test_a_folder_is_not_moved_away(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="run is a folder; give a file name"):
        Step(SGD(model().named_parameters(), lr=0.1)).save(tmp_path / "run", model())
    assert [str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*")] == ["run", "run/notes.txt"]


class Counting(nn.Linear):
    """A module with something beside tensors in its state."""

    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return super().forward(x)

    def get_extra_state(self) -> Any:
        return {"calls": self.calls}

    def set_extra_state(self, state: Any) -> None:
        self.calls = state["calls"]


def test_what_a_module_adds_to_its_state_comes_back(tmp_path: Path) -> None:
    network, second = Counting(5, 3), Counting(5, 3)
    step = Step(SGD(network.named_parameters(), lr=0.1))
    step(loss(network, *data()))
    step.save(tmp_path / "run.pt", network)
    Step(SGD(second.named_parameters(), lr=0.1)).load(tmp_path / "run.pt", second)
    assert second.calls == 1
    plain = nn.Linear(5, 3)
    third = Step(SGD(plain.named_parameters(), lr=0.1))
    with pytest.raises(UsageError, match="contains '_extra_state', which this model does not have"):
        third.load(tmp_path / "run.pt", plain)


def test_between_two_renames_the_one_before_is_found(tmp_path: Path) -> None:
    network = model()
    step = Step(SGD(network.named_parameters(), lr=0.1), model=network)
    step.save(tmp_path / "run.pt", extra="a")
    (tmp_path / "run.pt").rename(tmp_path / "run.1.pt")
    with pytest.warns(UserWarning, match="does not exist: loaded"):
        assert step.load(tmp_path / "run.pt") == "a"


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = model()
    step = Step(SGD(network.named_parameters(), lr=0.1), model=network)
    step.save(tmp_path / "run.pt", extra=1)

    def full(content: Any, file: Any) -> None:
        file.write(b"half a file")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        step.save(tmp_path / "run.pt", extra=2)
    assert [file.name for file in tmp_path.iterdir()] == ["run.pt"]
    assert step.load(tmp_path / "run.pt") == 1


def _other(**changes: Any) -> tuple[nn.Module, Step]:
    options = {"sizes": (5, 7), "make": SGD, "ema": None, "generators": None, "schedule": None, **changes}
    torch.manual_seed(1)
    small, large = options["sizes"]
    network = nn.Sequential(nn.Linear(small, large), nn.Tanh(), nn.Linear(large, 3))
    if options.get("head"):
        network.append(nn.Linear(3, 3))
    optimizer = options["make"](network.named_parameters(), lr=0.1, **options.get("arguments", {}))
    return network, Step(optimizer, options["schedule"], ema=options["ema"], generators=options["generators"])


MISFITS: dict[str, tuple[dict[str, Any], str]] = {
    "wider": ({"sizes": (5, 8)}, r"'0.weight' has shape \(7, 5\) in the checkpoint, \(8, 5\) in this model"),
    "another layer": ({"head": True}, "the checkpoint does not contain '3.weight' of this model"),
    "another optimizer": ({"make": AdamW}, "'momentum_buffer' for the parameter '0.weight'"),
    "averages": ({"ema": 0.9}, "this Step has 'average' .* and the checkpoint does not"),
    "a generator": ({"generators": {"data": torch.Generator()}}, "the checkpoint contains no generator 'data'"),
    "a shorter schedule": ({"schedule": linear(1)}, "from update 2, and the schedule has 1 steps"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_a_checkpoint_that_does_not_fit_changes_nothing(case: str, tmp_path: Path) -> None:
    changes, message = MISFITS[case]
    network, step = _other(arguments={"momentum": 0.9})
    for seed in range(2):
        step(loss(network, *data(seed=seed)))
    step.save(tmp_path / "run.pt", network)
    arguments = {} if changes.get("make") else {"momentum": 0.9}
    other, other_step = _other(arguments=arguments, **changes)
    weights, drawn = flat(other), torch.get_rng_state()
    with pytest.raises(UsageError, match=message) as caught:
        other_step.load(tmp_path / "run.pt", other)
    assert "\n" not in str(caught.value)
    assert torch.equal(flat(other), weights)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert other_step.number == 0
    assert not other_step.optimizer.state


def test_a_torch_optimizer_of_another_model_is_named_by_its_parameter() -> None:
    network, step = _other(make=torch.optim.SGD, arguments={"momentum": 0.9})
    step(loss(network, *data()))
    _, other = _other(make=torch.optim.SGD, sizes=(5, 8), arguments={"momentum": 0.9})
    with pytest.raises(UsageError, match=r"'momentum_buffer' of 0.weight has shape \(7, 5\)"):
        other.load_state_dict(step.state_dict())


@pytest.mark.parametrize("state", [{}, {"format": "another"}, 3])
def test_what_is_no_state_is_refused(state: Any) -> None:
    with pytest.raises(UsageError, match="this is not the state of a Step"):
        _other()[1].load_state_dict(state)


def test_a_file_that_runs_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (warnings.warn, ("code ran",))

    torch.save({"step": Evil(), "model": {}, "extra": None}, tmp_path / "run.pt")
    network, step = _other()
    with pytest.raises(UsageError, match="no checkpoint to load"):
        step.load(tmp_path / "run.pt", network)


KINDS: dict[str, Any] = {
    "torch": lambda: torch.Generator(),
    "numpy": lambda: np.random.default_rng(0),
    "old numpy": lambda: np.random.Generator(np.random.MT19937(0)),
    "python": lambda: random.Random(0),
}


def _drawing(kind: str, seed: int) -> tuple[nn.Module, Step]:
    network = nn.Sequential(model(seed), nn.BatchNorm1d(3))
    optimizer = AdamW(network.named_parameters(), lr=0.1)
    step = Step(
        optimizer,
        linear(50),
        clip=AutoClip(50),
        scaler=torch.amp.GradScaler("cpu", init_scale=256.0),
        ema=0.9,
        plateau=Plateau(patience=0),
        model=network,
        generators={"data": KINDS[kind]()},
    )
    for number in range(2):
        step(loss(network, *data(seed=number)))
    return network, step


def _everything(network: nn.Module, step: Step) -> Any:
    state = step.state_dict()
    return copy.deepcopy([state, network.state_dict(), step.optimizer.param_groups[0]["lr"]])


@pytest.mark.parametrize("here", KINDS)
@pytest.mark.parametrize("there", KINDS)
def test_a_generator_of_another_kind_changes_nothing(here: str, there: str, tmp_path: Path) -> None:
    first, first_step = _drawing(there, 0)
    first_step.save(tmp_path / "run.pt")
    network, step = _drawing(here, 1)
    before = _everything(network, step)
    if here == there:
        step.load(tmp_path / "run.pt")
        assert torch.equal(flat(network), flat(first))
        return
    with pytest.raises(UsageError, match=r"generator 'data' is a .*, and the checkpoint has the state of another kind"):
        step.load(tmp_path / "run.pt")
    assert same(_everything(network, step), before)


DAMAGED_PARTS: dict[str, Any] = {
    "number": "three",
    "skipped": -1,
    "scaler": {},
    "average": {"kind": "Average", "averages": 3, "names": []},
    "clip": {"kind": "AutoClip", "norms": torch.zeros(3), "count": torch.zeros(1)},
    "clip without a part": {"kind": "AutoClip"},
    "plateau": {"best": 1},
    "generators": {"torch": torch.zeros(3)},
    "optimizer": {"state": 3, "param_groups": []},
    "passes": 7,
}


@pytest.mark.parametrize("part", DAMAGED_PARTS)
def test_a_part_that_does_not_fit_changes_nothing(part: str, tmp_path: Path) -> None:
    _, first_step = _drawing("torch", 0)
    first_step(loss(first_step.model, *data(seed=3)))  # type: ignore[arg-type]
    state = {**first_step.state_dict(), part.split()[0]: DAMAGED_PARTS[part]}
    network, step = _drawing("torch", 1)
    before = _everything(network, step)
    with pytest.raises(UsageError) as caught:
        step.load_state_dict(state)
    assert "\n" not in str(caught.value)
    assert same(_everything(network, step), before)


class Refusing(nn.Linear):
    """A module that fails when its state is loaded, after a part of the model has been."""

    def set_extra_state(self, state: Any) -> None:
        if state["fails"] and not self.willing:
            raise RuntimeError("not this one")

    def get_extra_state(self) -> Any:
        return {"fails": True}

    willing = False


def test_a_model_that_refuses_its_state_half_way_is_put_back(tmp_path: Path) -> None:
    def made(seed: int) -> tuple[nn.Module, Step]:
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Linear(5, 5), Refusing(5, 3))
        step = Step(AdamW(network.named_parameters(), lr=0.1), ema=0.9, model=network)
        step(loss(network, *data(seed=seed)))
        return network, step

    made(0)[1].save(tmp_path / "run.pt")
    network, step = made(1)
    before = _everything(network, step)

    class Once:
        def __get__(self, instance: Any, owner: Any) -> bool:
            calls.append(1)
            return len(calls) > 1  # what is put back is taken

    calls: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Refusing, "willing", Once())
        with pytest.raises(UsageError, match="'model' of the checkpoint does not fit"):
            step.load(tmp_path / "run.pt")
    assert same(_everything(network, step), before)


class Parallel(nn.Module):
    """The prefix of DataParallel and DistributedDataParallel."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.module = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.module(x)  # type: ignore[no-any-return]


WRAPS: dict[str, Any] = {
    "plain": lambda network: network,
    "compiled": lambda network: torch.compile(network, backend="eager"),
    "parallel": Parallel,
    "compiled parallel": lambda network: torch.compile(Parallel(network), backend="eager"),
    "parallel compiled": lambda network: Parallel(torch.compile(network, backend="eager")),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("names", ["outer", "inner"])
@pytest.mark.parametrize("there", WRAPS)
@pytest.mark.parametrize("here", WRAPS)
def test_prefixes_of_wrappers_are_seen_through(here: str, there: str, names: str, tmp_path: Path) -> None:
    def made(wrap: str, seed: int) -> tuple[nn.Module, Step]:
        inner = nn.Sequential(model(seed), nn.BatchNorm1d(3))
        outer = WRAPS[wrap](inner)
        named = (outer if names == "outer" else inner).named_parameters()
        return inner, Step(torch.optim.AdamW(named, lr=0.1), ema=0.9, model=outer)

    first, first_step = made(there, 0)
    for number in range(2):
        first_step(loss(first, *data(seed=number)))
    first_step.save(tmp_path / "run.pt")
    second, second_step = made(here, 1)
    second_step.load(tmp_path / "run.pt")
    for network, step in ((first, first_step), (second, second_step)):
        step(loss(network, *data(seed=7)))
    assert same(first.state_dict(), second.state_dict())
    with first_step.averaged(), second_step.averaged():
        assert same(first.state_dict(), second.state_dict())


def test_a_module_of_the_model_that_is_called_module_is_none(tmp_path: Path) -> None:
    """Only where everything lies in it, it is a wrapper."""
    network = nn.ModuleDict({"module": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    step = Step(SGD(network.named_parameters(), lr=0.1), model=network)
    step.save(tmp_path / "run.pt")
    other = nn.ModuleDict({"head": nn.Linear(2, 2)})
    with pytest.raises(UsageError, match=r"contains 'module\.weight', which this model does not have"):
        Step(SGD(other.named_parameters(), lr=0.1), model=other).load(tmp_path / "run.pt")
