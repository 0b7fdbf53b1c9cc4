"""Writers: the trainer's step is passed on, the user's own things stay open, and a missing package is one line.

Where a tool is installed the test writes a local folder with the tool; elsewhere a small stand-in takes its place.
"""

from __future__ import annotations

import sys
import types
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from stepwell.doctor.writers import NAMES, Writer, writer
from stepwell.errors import MissingExtra, UsageError

VALUES = {"loss": 0.5, "grad_norm": 1.25}
TEXT = "error D03 Net at step 500: it rose\n  why: the model forgets"


class Calls:
    """Records every call of every method, as (name, arguments, keywords)."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def _record(self, name: str, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        self.calls.append((name, arguments, keywords))

    def named(self, name: str) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        return [(arguments, keywords) for one, arguments, keywords in self.calls if one == name]


def method(name: str) -> Any:
    return lambda self, *arguments, **keywords: self._record(name, arguments, keywords)


def kind(*names: str, module: str = "tests") -> type[Calls]:
    """A class with these methods, which record their calls."""
    return type("Run", (Calls,), {**{name: method(name) for name in names}, "__module__": module})


SummaryWriter = kind("add_scalar", "add_text", "flush", "close")
WandBRun = kind("log", "define_metric", "alert", "finish")
TrackioRun = kind("log", "alert", "finish", module="trackio.run")


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **contents: Any) -> types.ModuleType:
    module = types.ModuleType(name)
    for key, value in contents.items():
        setattr(module, key, value)
    monkeypatch.setitem(sys.modules, name, module)
    return module


def use(made: Writer) -> None:
    """Steps that jump and go back, as those of a resumed trainer do."""
    for step in (500, 510, 490):
        made.step(step, VALUES)
    made.finding(500, TEXT, "error")
    made.close()


def test_tensorboard_gets_the_steps_of_the_trainer() -> None:
    own = SummaryWriter()
    use(writer(own))
    assert [(arguments[:2], keywords) for arguments, keywords in own.named("add_scalar")][:2] == [
        (("doctor/loss", 0.5), {"global_step": 500}), (("doctor/grad_norm", 1.25), {"global_step": 500}),
    ]  # fmt: skip
    assert [keywords["global_step"] for _, keywords in own.named("add_scalar")] == [500, 500, 510, 510, 490, 490]
    ((arguments, keywords),) = own.named("add_text")
    assert arguments[0] == "doctor/findings"
    assert arguments[1] == "**error**\n\n    error D03 Net at step 500: it rose\n      why: the model forgets"
    assert keywords == {"global_step": 500}
    assert own.named("flush")
    assert not own.named("close")  # the user's


def test_tensorboard_opens_and_closes_its_own_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Calls] = []

    def open_one() -> Calls:
        made.append(SummaryWriter())
        return made[0]

    stand_in(monkeypatch, "tensorboard")
    stand_in(monkeypatch, "torch.utils.tensorboard", SummaryWriter=open_one)
    use(writer("TensorBoard"))
    assert len(made) == 1
    assert made[0].named("close")


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard_writes_a_local_folder(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter as Real

    real = Real(str(tmp_path))
    use(writer(real))
    real.close()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(tmp_path))
    read.Reload()
    assert sorted(event.step for event in read.Scalars("doctor/loss")) == [490, 500, 510]


def test_wandb_has_an_axis_of_its_own_and_no_step_argument() -> None:
    run = WandBRun()
    use(writer(run))
    assert run.calls[:2] == [
        ("define_metric", ("doctor/step",), {}), ("define_metric", ("doctor/*",), {"step_metric": "doctor/step"}),
    ]  # fmt: skip
    logged = run.named("log")
    assert logged[0] == (({"doctor/step": 500, "doctor/loss": 0.5, "doctor/grad_norm": 1.25},), {})
    assert [arguments[0]["doctor/step"] for arguments, _ in logged] == [500, 510, 490]
    assert run.named("alert") == [
        ((), {"title": "step 500: error D03 Net at step 500: it rose", "text": TEXT, "level": "ERROR"})
    ]
    assert not run.named("finish")


def test_wandb_by_name_takes_the_active_run(monkeypatch: pytest.MonkeyPatch) -> None:
    run = WandBRun()
    module = stand_in(monkeypatch, "wandb", run=run)
    use(writer("wandb"))
    use(writer(module))
    assert len(run.named("log")) == 6
    module.run = None  # type: ignore[attr-defined]  # a stand-in module
    with pytest.raises(UsageError, match=r"found no active run; call wandb.init\(\) first"):
        writer("wandb")


def test_trackio_gets_the_steps_of_the_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    current, own = TrackioRun(), TrackioRun()
    levels = types.SimpleNamespace(ERROR="e", WARN="w", INFO="i")
    # a stand-in: trackio itself has no types here
    stand_in(monkeypatch, "trackio", log=current.log, alert=current.alert, AlertLevel=levels)  # type: ignore[attr-defined]
    for run, made in ((current, writer("trackio")), (own, writer(own))):
        use(made)
        assert [keywords for _, keywords in run.named("log")] == [{"step": 500}, {"step": 510}, {"step": 490}]
        assert run.named("log")[0][0] == ({"doctor/loss": 0.5, "doctor/grad_norm": 1.25},)
        ((_, alert),) = run.named("alert")
        assert (alert["level"], alert["text"]) == ("e", TEXT)
        assert not run.named("finish")


def test_an_older_trackio_gets_the_finding_as_text() -> None:
    run = kind("log", module="trackio.run")()
    writer(run).finding(7, TEXT, "warning")
    assert run.calls == [("log", ({"doctor/warning": TEXT},), {"step": 7})]


def test_mlflow_gets_the_steps_of_the_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = kind("log_metrics", "log_text", "set_tag", "end_run")()
    names = {name: getattr(calls, name) for name in ("log_metrics", "log_text", "set_tag", "end_run")}
    module = stand_in(monkeypatch, "mlflow", **names)
    made = writer("mlflow")
    use(made)
    assert [keywords for _, keywords in calls.named("log_metrics")] == [{"step": 500}, {"step": 510}, {"step": 490}]
    assert calls.named("log_metrics")[0][0] == ({"doctor/loss": 0.5, "doctor/grad_norm": 1.25},)
    made.finding(500, TEXT, "note")
    files = [arguments[1] for arguments, _ in calls.named("log_text")]
    assert len(set(files)) == 2
    assert all(name.startswith("doctor/findings/step-00000500-") for name in files)
    assert not calls.named("end_run")
    use(writer(module))


@pytest.mark.skipif(find_spec("mlflow") is None, reason="mlflow is not installed")
def test_mlflow_writes_a_local_folder(tmp_path: Path) -> None:
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'runs.db'}")
    with mlflow.start_run() as run:
        writer("mlflow").step(500, VALUES)
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "doctor/loss")
    assert [(one.step, one.value) for one in history] == [(500, 0.5)]


PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio", "mlflow": "mlflow"}


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_package_is_refused_by_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, PACKAGES[name], None)
    with pytest.raises(MissingExtra) as caught:
        writer(name)
    assert str(caught.value) == (
        f"the doctor's writer '{name}' needs the package '{PACKAGES[name]}', which is not installed: "
        f"pip install {PACKAGES[name]}"
    )


def test_an_object_with_the_three_methods_is_a_writer() -> None:
    own = kind("step", "finding", "close")()
    assert writer(own) is own  # type: ignore[comparison-overlap]  # a class of the test
    assert all(isinstance(writer(one()), Writer) for one in (SummaryWriter, WandBRun, TrackioRun))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("wandbb", "unknown writer 'wandbb': did you mean 'wandb'"),
        ("", "unknown writer ''"),
        (None, "writer=None; it must be one of tensorboard, wandb, trackio, mlflow, a SummaryWriter"),
        (3, "writer=3; it must be one of"),
        (SummaryWriter, "is a class; give an object"),
        (sys, "it must be one of tensorboard"),
    ],
)
def test_what_is_no_writer_is_refused(given: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        writer(given)


def test_naming_the_writers_loads_no_tool() -> None:
    import subprocess

    code = "import sys, stepwell.doctor.writers; print({'torch', 'wandb', 'mlflow', 'trackio'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_early_updates_reach_a_writer_one_by_one_and_later_ones_together() -> None:
    import torch

    from stepwell import Doctor
    from stepwell.doctor.chronicle import EARLY, TOGETHER

    class Seen:
        def __init__(self) -> None:
            self.steps: list[int] = []

        def step(self, step: int, values: Any) -> None:
            self.steps.append(step)

        def finding(self, step: int, text: str, severity: str) -> None: ...
        def close(self) -> None: ...

    seen, waited = Seen(), []
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with Doctor(model, optimizer, live=False, writers=[seen]) as doctor:
        for step in range(EARLY + 2 * TOGETHER):
            optimizer.zero_grad()
            loss = model(torch.randn(8, 2)).pow(2).mean()
            doctor.loss(loss)
            waited.append(step - len(seen.steps))  # updates made and not yet written
            loss.backward()
            optimizer.step()
    assert waited[: EARLY + 1] == [0] * (EARLY + 1)
    assert 1 < max(waited) <= TOGETHER
    assert seen.steps == list(range(1, EARLY + 2 * TOGETHER + 1))
