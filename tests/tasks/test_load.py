"""A user's own task file: what is accepted, and the one line that each mistake gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepwell import tasks
from stepwell.errors import UsageError

GOOD = """
import torch
from torch import nn
from stepwell.tasks import Metric, Task

def model(seed):
    return nn.Linear(2, 1)

def batches(seed):
    for _ in range(3):
        yield torch.ones(4, 2)

def loss(model, batch):
    return model(batch).pow(2).mean()

def evaluate(model):
    return loss(model, torch.ones(4, 2)).item()

def make(**changed):
    settings = dict(name="mine", summary="", family="mlp", model=model, batches=batches, loss=loss,
                    metric=Metric("loss", "min", evaluate), steps=10)
    return Task(**{**settings, **changed})

task = make()
"""

EXAMPLE = Path(__file__).parents[2] / "examples" / "my_task.py"


def written(folder: Path, code: str) -> Path:
    path = folder / "mine.py"
    path.write_text(code)
    return path


def test_a_good_file_loads_with_and_without_the_name(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD + "\nother = make(name='other', steps=3)\n")
    assert tasks.find(str(path)).name == "mine"
    assert tasks.find(f"{path}:other").steps == 3


def test_the_example_is_a_task() -> None:
    task = tasks.find(f"{EXAMPLE}:task")
    assert (task.name, task.metric.direction) == ("spirals", "max")


def test_a_file_may_import_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "neighbour_of_mine.py").write_text("STEPS = 7\n")
    path = written(tmp_path, GOOD + "\nfrom neighbour_of_mine import STEPS\ntask = make(steps=STEPS)\n")
    assert tasks.find(str(path)).steps == 7


MISTAKES = [
    ("raise RuntimeError('first\\nlast words')", "mine.py' cannot be imported: RuntimeError: last words"),
    ("import no_such_package", "mine.py' cannot be imported: ModuleNotFoundError: No module named 'no_such_package'"),
    ("def broken(:", "mine.py' cannot be imported: SyntaxError"),
    ("raise SystemExit(3)", r"mine.py' cannot be imported: it calls sys.exit\(3\)"),
    ("x = 1", "mine.py' defines no 'task': write task = stepwell.tasks.Task"),
    (GOOD.replace("task = make()", "tsk = make()"), "defines no 'task': did you mean 'tsk'?"),
    (GOOD + "task = 3", "'task' in '.*mine.py' is a int; it must be a stepwell.tasks.Task"),
    (GOOD + "task = make(steps=0)", "steps=0; it must be a whole number of at least 1"),
    (GOOD + "task = make(steps=True)", "steps=True; it must be a whole number of at least 1"),
    (GOOD + "task = make(evaluations=2.5)", "evaluations=2.5; it must be a whole number of at least 1"),
    (GOOD + "task = make(target='high')", "target='high'; it must be a finite number or None"),
    (GOOD + "task = make(metric=evaluate)", "metric is a function; it must be a stepwell.tasks.Metric"),
    (GOOD + "task = make(model=nn.Linear(2, 1), loss=1)", "loss is a int; it must be a function"),
    (GOOD + "task = make(model=lambda seed: 'net')", r"model\(0\) is a str; it must be a torch.nn.Module"),
    (GOOD + "task = make(model=lambda seed: nn.ReLU())", r"model\(0\) has no trainable parameters"),
    (GOOD + "task = make(model=lambda: 1)", r"model\(0\) fails: TypeError: .* takes 0 positional arguments"),
    (GOOD + "task = make(batches=lambda seed: [])", r"batches\(0\) gives no batch"),
    (GOOD + "task = make(batches=lambda seed: 5)", r"batches\(0\) fails: TypeError: 'int' object is not iterable"),
    (GOOD + "task = make(loss=lambda m, b: m(b))", r"loss\(model, batch\) has shape \(4, 1\); it must be a scalar"),
    (GOOD + "task = make(loss=lambda m, b: 1.0)", r"loss\(model, batch\) is a float; it must be a scalar tensor"),
    (GOOD + "task = make(loss=lambda m, b: m(b).sum().detach())", r"loss\(model, batch\) has no gradient"),
    (GOOD + "task = make(loss=lambda m, b: m(b).sum() / 0)", r"loss\(model, batch\) is -?(inf|nan) before"),
    (GOOD + "task = make(loss=lambda m, b: m(b[:, :1]).sum())", r"loss\(model, batch\) fails: RuntimeError: mat1 and"),
    (
        GOOD + "extra = torch.ones(1, requires_grad=True)\ntask = make(loss=lambda m, b: extra.sum())",
        "no trainable parameter",
    ),
    (GOOD + "task = make(metric=Metric('m', 'min', lambda m: 'good'))", r"metric.evaluate\(model\) gives 'good'"),
    (GOOD + "task = make(metric=Metric('m', 'min', lambda m: None))", r"metric.evaluate\(model\) gives None"),
    (GOOD + "task = make(metric=Metric('m', 'min', lambda m: float('nan')))", r"metric.evaluate\(model\) gives nan"),
    (GOOD + "task = make(metric=Metric('m', 'min', lambda m: 1 / 0))", r"evaluate\(model\) fails: ZeroDivisionError"),
    (GOOD + "task = make(metric=Metric('m', 'best', evaluate))", "direction='best'; it must be 'min' or 'max'"),
]


@pytest.mark.parametrize(("code", "message"), MISTAKES, ids=[str(i) for i in range(len(MISTAKES))])
def test_a_mistake_gives_one_line(tmp_path: Path, code: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        tasks.find(str(written(tmp_path, code)))
    assert "\n" not in str(caught.value)


def test_a_missing_file_a_folder_and_another_kind_of_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere.py' does not exist"):
        tasks.find(str(tmp_path / "nowhere.py"))
    folder = tmp_path / "folder.py"
    folder.mkdir()
    with pytest.raises(UsageError, match=r"folder.py' is not a file"):
        tasks.find(str(folder))
    (tmp_path / "task.txt").write_text(GOOD)
    with pytest.raises(UsageError, match=r"its name must end in \.py"):
        tasks.find(str(tmp_path / "task.txt"))
