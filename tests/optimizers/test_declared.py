"""Facts that are read without torch equal those of the class; and lengths of steps are as declared."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stepwell.optimizers import TABLE, declared, find, module_of, table
from tests.contract.table import RULES


@pytest.mark.parametrize("name", TABLE)
def test_facts_that_are_read_are_those_of_the_class(name: str) -> None:
    assert declared.declared(name) == find(name).facts
    assert declared._read(name) is not None, "let facts be an expression of literals and names of optimizers/facts.py"


def test_neither_torch_nor_numpy_is_loaded() -> None:
    code = (
        "import json, sys; from stepwell.optimizers import TABLE; from stepwell.optimizers.declared import declared\n"
        "print(json.dumps([len([declared(n) for n in TABLE]), sorted({'numpy', 'torch'} & {*sys.modules})]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [len(TABLE), []]


@pytest.mark.parametrize("text", ["", "class Odd:\n    pass\n", "class Odd:\n    facts = made()\n", None])
def test_where_nothing_can_be_read_the_class_is_loaded(
    text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if text is not None:
        (tmp_path / "optimizers").mkdir()
        (tmp_path / "optimizers" / "odd.py").write_text(text)
    monkeypatch.setattr(declared, "_HOUSE", tmp_path)
    monkeypatch.setitem(table._TABLE, "Odd", "odd")
    assert declared._read("Odd") is None
    monkeypatch.setitem(table._TABLE, "Odd", "lion")
    monkeypatch.setattr(declared, "loaded", lambda module, name: find("Lion") if module == module_of("Lion") else None)
    assert declared.declared.__wrapped__("Odd") == find("Lion").facts


def moved(name: str, scale: float, **options: float) -> float:
    """The length of the eighth step, weight decay aside: RAdam's first ones are those of SGD."""
    generator = torch.Generator().manual_seed(0)
    p = torch.linspace(-1, 1, 64, dtype=torch.float64).reshape(8, 8).requires_grad_()
    given = options | ({"weight_decay": 0.0} if "weight_decay" in inspect.signature(find(name)).parameters else {})
    optimizer = find(name)([p], lr=1e-3, backend="eager", **given)
    for _ in range(8):
        draw = torch.randn(8, 8, generator=generator, dtype=torch.float64)
        start = p.detach().clone()
        p.grad = scale * (draw + 0.5 * draw.sign())  # none near 0
        optimizer.step()
    return float((p.detach() - start).norm())


@pytest.mark.parametrize("name", RULES)
def test_the_length_of_steps_is_as_declared(name: str) -> None:
    grown = moved(name, 1e3) / moved(name, 1.0)
    follows = find(name).facts.step_length() == "gradient"
    assert grown == pytest.approx(1000 if follows else 1, rel=0.05), "see `length` of Facts"


# Sophia has no estimate yet, and its eps is that of the estimate
@pytest.mark.parametrize("name", [n for n in RULES if find(n).facts.step_length() == "lr" and n != "Sophia"])
def test_eps_bounds_steps_where_it_is_declared(name: str) -> None:
    if not isinstance(getattr(inspect.signature(find(name)).parameters.get("eps"), "default", None), float):
        assert not find(name).facts.eps_bounds_steps(), "without eps: see `eps_bounds` of Facts"
        return
    shrunk = moved(name, 1.0, eps=1e2) / moved(name, 1.0, eps=1e4)
    assert (shrunk > 20) == find(name).facts.eps_bounds_steps(), "see `eps_bounds` of Facts"
