"""A Step is made of parts: what it keeps is its own, and a load that fails late puts every part back."""

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

ROOM = Path(stepwell.step.__file__).parent


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


def test_a_load_whose_warning_is_an_error_changes_nothing(tmp_path: Path) -> None:
    """The last thing that can fail: what is said of a schedule under which lr jumps."""
    network, step = _run(0)
    _update(network, step, range(5))
    step.save(tmp_path / "run.pt")
    other = model(1)
    second = Step(
        AdamW(other.named_parameters(), lr=0.1),
        linear(400, to=4.0),
        clip=AutoClip(60, window=5),
        ema=0.5,
        plateau=Plateau(),
        model=other,
        scaler=torch.amp.GradScaler("cpu", init_scale=8.0),
    )
    _update(other, second, range(2))
    before = copy.deepcopy([second.state_dict(), other.state_dict()])
    with pytest.raises(UserWarning, match="jumps"):
        second.load(tmp_path / "run.pt")
    assert same([second.state_dict(), other.state_dict()], before)
