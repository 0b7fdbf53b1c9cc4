"""TensorBoard, MLflow and trackio themselves: a run is written to a local folder and read back with the tool's reader.

CONTRIBUTING.md says how to install the tools that `make` does not install. Nothing here needs a network or a server.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from stepwell.doctor import Doctor
from stepwell.findings import text

STEPS = 30
SAMPLED = {*range(1, 21), 24, 28, 30}  # the updates with a norm of the gradients

Numbers = dict[str, dict[int, float]]


def run(writer: Any, own: Any = None) -> tuple[Numbers, list[tuple[int, str]]]:
    """Trains with a softmax before the cross-entropy. Returns numbers by name and step, and (step, text) of findings.

    `own(step, loss)`: what the script itself writes in each step.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.5, total_iters=STEPS)
    expected: Numbers = {"loss": {}, "lr": {}, "grad_norm": {}, "val": {}}
    said: list[tuple[int, str]] = []
    with Doctor(model, optimizer, live=False, writers=[writer]) as doctor:
        for step in range(1, STEPS + 1):
            x = torch.randn(64, 8)
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x).softmax(1), x[:, :4].argmax(1))
            doctor.loss(loss)
            loss.backward()
            expected["loss"][step] = loss.item()
            expected["lr"][step] = schedule.get_last_lr()[0]
            if step in SAMPLED:
                expected["grad_norm"][step] = float(torch.cat([p.grad.flatten() for p in model.parameters()]).norm())  # type: ignore[union-attr]
            optimizer.step()
            schedule.step()
            if own is not None:
                own(step, loss.item())
        doctor.val(0.25)
        expected["val"][STEPS] = 0.25
    said = [(finding.place.step, text(finding)) for finding in doctor.findings]  # type: ignore[union-attr]
    assert [one.code for one in doctor.findings] == ["R35"]
    return expected, said


def same(read: Numbers, expected: Numbers) -> None:
    assert read.keys() == expected.keys()
    for name, values in expected.items():
        assert read[name] == pytest.approx(values, rel=1e-5), name


@pytest.mark.filterwarnings("ignore")  # warnings of the tool
@pytest.mark.parametrize("way", ["name", "object"])
def test_tensorboard(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    from torch.utils.tensorboard import SummaryWriter

    if way == "name":
        monkeypatch.chdir(tmp_path)
        expected, said = run("tensorboard")
        (folder,) = (tmp_path / "runs").iterdir()
    else:
        folder = tmp_path
        with SummaryWriter(str(folder)) as writer:
            expected, said = run(writer)
            writer.add_scalar("loss", 1.0, 1)  # open, and the user's names are free
    events = accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    names = [name for name in events.Tags()["scalars"] if name.startswith("doctor/")]
    read = {name.removeprefix("doctor/"): {one.step: one.value for one in events.Scalars(name)} for name in names}
    same(read, expected)
    found = [
        (one.step, one.tensor_proto.string_val[0].decode()) for one in events.Tensors("doctor/findings/text_summary")
    ]
    assert [step for step, _ in found] == [step for step, _ in said]
    lines = found[0][1].splitlines()
    assert lines[0] == "**error**"
    assert "\n".join(line[4:] for line in lines[2:]) == said[0][1]


@pytest.mark.slow  # 13 s: MLflow makes its database
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("store", ["folder", "sqlite"])
def test_mlflow(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    if store == "sqlite":
        pytest.importorskip("sqlalchemy")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.chdir(tmp_path)  # artifacts of a database lie in the current folder
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(tmp_path.as_uri() + "/runs" if store == "folder" else f"sqlite:///{tmp_path}/runs.db")
    try:
        with mlflow.start_run() as active:
            expected, said = run("mlflow")
            mlflow.log_metric("loss", 1.0)
        client, key = mlflow.MlflowClient(), active.info.run_id
        names = [name for name in client.get_run(key).data.metrics if name.startswith("doctor/")]
        read = {
            name.removeprefix("doctor/"): {one.step: one.value for one in client.get_metric_history(key, name)}
            for name in names
        }
        same(read, expected)
        (file,) = client.list_artifacts(key, "doctor/findings")
        step, finding = said[0]
        assert file.path == f"doctor/findings/step-{step:08d}-001-error.txt"
        assert Path(client.download_artifacts(key, file.path)).read_text() == finding
        assert client.get_run(key).data.tags["doctor/error"] == f"step {step}: {finding.splitlines()[0]}"[:500]
    finally:
        mlflow.set_tracking_uri(before)


@pytest.fixture(scope="module")
def trackio(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The module, which reads the name of its folder when it is imported."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("trackio")
        patch.setenv("TRACKIO_DIR", str(folder))
        patch.setenv("HF_HUB_OFFLINE", "1")
        module = pytest.importorskip("trackio")
        assert folder == module.utils.TRACKIO_DIR
        yield module


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", ["name", "object"])
def test_trackio(way: str, trackio: Any) -> None:
    from trackio.sqlite_storage import SQLiteStorage

    one = trackio.init(project="doctor", name=way, auto_log_cpu=False, auto_log_gpu=False)

    def own(step: int, loss: float) -> None:
        one.log({"mine": loss}, step=1000 * step)  # samples, and not updates

    expected, said = run("trackio" if way == "name" else one, own)
    trackio.finish()
    logs = SQLiteStorage.get_logs("doctor", way)
    read: Numbers = {}
    for row in logs:
        for name in row:
            if name.startswith("doctor/"):
                assert row["step"] not in read.setdefault(name.removeprefix("doctor/"), {})
                read[name.removeprefix("doctor/")][row["step"]] = row[name]
    same(read, expected)
    assert sum("mine" in row for row in logs) == STEPS
    (alert,) = SQLiteStorage.get_alerts("doctor", way)
    step, finding = said[0]
    assert (alert["step"], alert["text"], alert["level"]) == (step, finding, "error")
    assert alert["title"] == f"step {step}: {finding.splitlines()[0]}"
