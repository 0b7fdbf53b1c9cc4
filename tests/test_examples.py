"""Every example of every docstring runs: what a stranger reads first, and copies, is true."""

from __future__ import annotations

import doctest
import importlib
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import stepwell
from stepwell import optimizers

HOUSE = Path(stepwell.__file__).parent
FILES = sorted(path for path in HOUSE.rglob("*.py") if ">>> " in path.read_text())
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
SKIPPED = 7  # lines of examples that take minutes, or show a number that depends on the machine; it may only fall


class Batch(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor


def example_model(width: int = 8) -> nn.Sequential:
    """A classifier of tokens with the parts that examples name: embed, backbone.layer1 to layer4, pooler, head."""

    def layer() -> nn.Sequential:
        parts = {"fc": nn.Linear(width, width), "norm": nn.BatchNorm1d(width), "proj": nn.Linear(width, width)}
        return nn.Sequential(OrderedDict(parts))

    backbone = nn.Sequential(OrderedDict((f"layer{i}", layer()) for i in range(1, 5)))
    ends = {"pooler": nn.Linear(width, width), "head": nn.Linear(width, 2)}
    return nn.Sequential(OrderedDict({"embed": nn.Embedding(9, width), "backbone": backbone, **ends}))


def namespace(module: Any) -> dict[str, Any]:
    """What examples may name: the public names of stepwell and of the module's room, the module's own names, and what
    every training script has: a model, an optimizer, a loader, a loss, a Step."""
    torch.manual_seed(0)
    model = example_model()
    optimizer = stepwell.AdamW(model.parameters(), lr=1e-3)
    data = [Batch(torch.tensor(i % 9), torch.tensor(i % 9 % 2)) for i in range(64)]
    loader = DataLoader(data, batch_size=16)
    batch = next(iter(loader))
    step = stepwell.Step(optimizer, average=stepwell.SWA(start=1, every=1), model=model)
    step(nn.functional.cross_entropy(model(batch.x), batch.y))  # an average that has seen weights
    names = {
        "model": model,
        "optimizer": optimizer,
        "loader": loader,
        "batch": batch,
        "x": batch.x,
        "y": batch.y,
        "step": step,
        "schedule": stepwell.cosine(1_000),
        "loss_fn": nn.functional.cross_entropy,
        "cross_entropy": nn.functional.cross_entropy,
        "evaluate": lambda model: 0.5,
        "epochs": 2,
        "torch": torch,
        "nn": nn,
        "stepwell": stepwell,
        "sw": stepwell,
    }
    door = {name: getattr(stepwell, name) for name in [*stepwell._DOOR, *optimizers.TABLE]}
    room = importlib.import_module(".".join(module.__name__.split(".")[:2]))
    public = {name: getattr(room, name) for name in getattr(room, "__all__", ())}
    return door | names | public | {name: value for name, value in vars(module).items() if name not in names}


class Checker(doctest.OutputChecker):
    """An example without a result says only that it runs."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return not want or super().check_output(want, got, optionflags)


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(HOUSE.parent).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(HOUSE).as_posix())
def test_the_examples_of_a_file_are_true(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(module_of(path))
    tests = [test for test in doctest.DocTestFinder().find(module) if test.examples]
    found = sum(len(test.examples) for test in tests)
    assert found == len(re.findall(r"^\s*>>> ", path.read_text(), re.MULTILINE)), "some are in no docstring"
    for test in tests:
        test.globs = namespace(module)
        said: list[str] = []
        result = doctest.DocTestRunner(Checker(), optionflags=FLAGS).run(test, out=said.append)
        assert result.failed == 0, "".join(said)


def test_few_examples_are_skipped() -> None:
    skipped = sum(path.read_text().count("doctest: +SKIP") for path in FILES)
    assert skipped == SKIPPED, f"{skipped} lines are skipped: put the number into SKIPPED if it is smaller"
