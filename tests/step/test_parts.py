"""A Step is made of parts: how the room is built, and that a load which fails late puts every part back."""

from __future__ import annotations

import ast
import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import stepwell.step
from stepwell.optimizers import AdamW
from stepwell.schedules import Plateau, linear
from stepwell.step import AutoClip, Step
from tests.step.small import data, flat, loss, model, same
from tests.test_floors import imported

ROOM = Path(stepwell.step.__file__).parent
FILES = {path.stem: path for path in sorted(ROOM.glob("*.py"))}


def test_no_file_of_the_room_is_longer_than_400_lines() -> None:
    assert {name: count for name, path in FILES.items() if (count := len(path.read_text().splitlines())) >= 400} == {}


def uses(path: Path) -> set[str]:
    """The files of the room that one imports, inside functions too; those that are only for types do not count."""
    names = [name.removeprefix("stepwell.step.").split(".")[0] for name in imported(path) if ".step." in name]
    return {name for name in names if name in FILES}


def test_no_files_of_the_room_import_one_another() -> None:
    left = {name: uses(path) for name, path in FILES.items()}
    assert "run" in left["step"]  # the reader of imports sees something
    while free := {name for name, used in left.items() if not used & left.keys()}:
        left = {name: used for name, used in left.items() if name not in free}
    assert left == {}


@pytest.mark.parametrize("room", ["step", "finder", "compare"])
def test_nobody_uses_what_a_step_keeps_for_itself(room: str) -> None:
    found = []
    for path in sorted((ROOM.parent / room).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and re.fullmatch(r"_[a-z].*", node.attr):
                owner = ast.unparse(node.value)
                if re.search(r"\b(step|inner)$", owner) and owner != "optimizer.step":
                    found.append(f"{path.name}: {ast.unparse(node)}")
    assert found == []


def _run(seed: int, **options: Any) -> tuple[torch.nn.Module, Step]:
    network = model(seed)
    generators = {"data": torch.Generator().manual_seed(seed)}
    step = Step(
        AdamW(network.named_parameters(), lr=0.1), linear(40, to=0.1), clip=AutoClip(60, window=5), ema=0.5,
        plateau=Plateau(), model=network, scaler=torch.amp.GradScaler("cpu", init_scale=8.0), generators=generators,
    )  # fmt: skip
    return network, step


def _update(network: torch.nn.Module, step: Step, numbers: range) -> None:
    for number in numbers:
        step(loss(network, *data(seed=number)))


@pytest.mark.parametrize(
    "part", ["skipped", "clip", "estimator", "average", "optimizer", "scaler", "plateau", "number", "passes", "run"]
)
def test_a_load_that_fails_at_any_part_puts_all_of_them_back(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupt in the middle of `load`, after this part was loaded."""
    network, step = _run(0)
    _update(network, step, range(5))
    step.save(tmp_path / "run.pt")
    other, third = _run(1)
    _update(other, third, range(2))
    undisturbed, fourth = _run(1)
    _update(undisturbed, fourth, range(2))
    before = copy.deepcopy([third.state_dict(), other.state_dict(), third.optimizer.param_groups[0]["lr"]])
    parts = dict(third._parts())
    act = type(parts[part]).load_state_dict
    calls = []

    def load_and_stop(self: Any, state: Any) -> None:
        act(self, state)
        calls.append(part)
        if len(calls) == 1:  # not when it is put back
            raise KeyboardInterrupt

    monkeypatch.setattr(type(parts[part]), "load_state_dict", load_and_stop)
    with pytest.raises(KeyboardInterrupt):
        third.load(tmp_path / "run.pt")
    monkeypatch.undo()
    after = [third.state_dict(), other.state_dict(), third.optimizer.param_groups[0]["lr"]]
    assert same(after, before)
    _update(other, third, range(2, 6))
    _update(undisturbed, fourth, range(2, 6))
    assert torch.equal(flat(other), flat(undisturbed))


def test_a_file_has_the_parts_in_the_order_of_earlier_versions() -> None:
    network, step = _run(0)
    _update(network, step, range(1))
    assert list(step.state_dict()) == [
        "format", "number", "skipped", "optimizer", "switched", "scaler", "average", "clip", "plateau", "generators",
        "estimator", "passes", "run",
    ]  # fmt: skip
