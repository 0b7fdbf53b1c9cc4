"""Many machines on one storage: a PostgreSQL server that is restarted, a journal file, and workers that are killed."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stepwell.compare import Result, compare
from stepwell.compare.beats import MISSED, Watch
from stepwell.compare.folder import Folder
from stepwell.compare.outcome import Outcome
from stepwell.compare.plan import Contender, Plan, Trial
from stepwell.compare.shared import Shared
from stepwell.compare.slots import LARGEST, Slot, packed, unpacked
from stepwell.compare.storage import hidden, open_storage
from stepwell.errors import UsageError

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "bench"))
from postgres import Server, binaries  # noqa: E402

PLAN = Plan("digits", (Contender("SGD", 1e-3, 1.0),), 6, 3, 100)
TRIALS = [Trial("SGD", "tune", i, 0.1 * (i + 1), 0, {"beta1": 0.9}, f"id-{i}") for i in range(4)]
SMALL: dict[str, Any] = {"trials": 5, "seeds": 2, "lr_ranges": {"sgd": (1e-3, 3.0), "lion": (1e-3, 1.0)}}
ARGUMENTS = ["--optimizers", "sgd,lion", "--trials", "5", "--seeds", "2", "--jobs", "1", "--threads", "1"]
ARGUMENTS += ["--lr-range", "sgd=1e-3:3", "--lr-range", "lion=1e-3:1"]


def ended(trial: Trial, final: float = 0.5, **more: Any) -> Outcome:
    return Outcome(
        trial.optimizer, trial.phase, trial.index, trial.lr, trial.seed, "finished", steps=[0, 10], metric=[0.1, final],
        loss=[None, 0.7], seconds=[0.0, 0.1], final=final, id=trial.id, settings=dict(trial.settings), **more,
    )  # fmt: skip


@pytest.fixture
def server() -> Iterator[Server]:
    if binaries() is None:
        pytest.skip("no PostgreSQL server is installed")
    folder = Path(tempfile.mkdtemp(prefix="stepwell-"))
    try:
        running = Server(folder)
        yield running
        running.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Callable[..., Shared]]:
    """Opens the comparison on one more machine: a folder of its own, one journal."""
    opened: list[Shared] = []

    def another(out: str = "", plan: Plan = PLAN, url: str = "") -> Shared:
        folder = Shared(tmp_path / (out or f"out{len(opened)}"), plan, url or f"journal://{tmp_path}/shared.log", "max")
        folder._pause = 0.0
        opened.append(folder)
        return folder

    yield another
    for folder in opened:
        folder.close()


def eagerly(folder: Shared) -> list[Outcome]:
    folder._look()
    return folder.outcomes()


# Whole comparisons, by several processes.


def timeless(trials: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**trial, "seconds": [], "by": "", "id": "", "threads": 0} for trial in trials]


def is_the_same(folder: Path, reference: Result) -> None:
    """The table and the trials of a folder are those of the comparison in one process."""
    found = json.loads((folder / "results.json").read_text())
    wanted = json.loads(json.dumps(reference.to_json()))
    assert found["complete"]
    assert timeless(found["trials"]) == timeless(wanted["trials"])
    for one, other in zip(found["scores"], wanted["scores"], strict=True):
        for key in other:
            if "seconds" not in key and key != "step_ms":
                assert one[key] == other[key], key


def stored(url: str) -> Counter[str]:
    """How many outcomes the storage has of each trial, by its id; those of dead processes are left out."""
    opened = open_storage(url)
    (study,) = opened.storage.get_all_studies()
    found = [unpacked(one.user_attrs) for one in opened.storage.get_all_trials(study._study_id)]
    opened.close()
    return Counter(one.id for one in found if one is not None and not one.lost)


REFERENCE: list[Result] = []  # two tests need it


def in_one_process(task: str, out: Path) -> Result:
    if not REFERENCE:
        REFERENCE.append(compare(task, ["sgd", "lion"], jobs=1, out=out, **SMALL))
    return REFERENCE[0]


def started(url: str, task: str, out: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "stepwell.cli", "compare", task, *ARGUMENTS, "--out", str(out), "--quiet", *more]
    return subprocess.Popen(
        [*command, "--storage", url], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "STEPWELL_HEARTBEAT": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def wait_for(condition: Callable[[], object], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def is_in_a_trial(out: Path) -> bool:
    claims = out / "claims"
    return claims.is_dir() and any(claims.iterdir())


def kill_in_a_trial(worker: subprocess.Popen[str], out: Path) -> None:
    """In its second one, which takes 0.8 s: the first one begins with the start of a process."""
    wait_for(lambda: (out / "trials.jsonl").exists() and is_in_a_trial(out))
    time.sleep(0.3)
    worker.send_signal(signal.SIGKILL)


@pytest.mark.slow
def test_four_workers_one_of_them_killed_and_a_restart_of_the_server(
    server: Server, tmp_path: Path, task_file: Callable[[str], str]
) -> None:
    task, outs = task_file("slow"), [tmp_path / f"out{n}" for n in range(4)]
    workers = [started(server.url, task, out) for out in outs]
    try:
        reference = in_one_process(task_file(""), tmp_path / "alone")
        kill_in_a_trial(workers[0], outs[0])
        wait_for(lambda: sum(map(is_in_a_trial, outs[1:])) >= 2)
        server.stop()
        time.sleep(1.5)
        server.start()
        said = [worker.communicate(timeout=120)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [-signal.SIGKILL, 0, 0, 0], said
    for out in outs[1:]:
        is_the_same(out, reference)
        assert "sesame" not in "".join(path.read_text() for path in out.iterdir())
    assert "sesame" not in "".join(said)
    counts = stored(server.url)
    assert set(counts.values()) == {1}
    assert counts.keys() == {trial["id"] for trial in json.loads((outs[1] / "results.json").read_text())["trials"]}


@pytest.mark.slow
def test_three_workers_on_a_journal_one_of_them_killed(tmp_path: Path, task_file: Callable[[str], str]) -> None:
    url, task, outs = f"journal://{tmp_path}/shared.log", task_file("slow"), [tmp_path / f"out{n}" for n in range(3)]
    workers = [started(url, task, out) for out in outs]
    try:
        reference = in_one_process(task_file(""), tmp_path / "alone")
        kill_in_a_trial(workers[0], outs[0])
        said = [worker.communicate(timeout=120)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [-signal.SIGKILL, 0, 0], said
    for out in outs[1:]:
        is_the_same(out, reference)
    assert set(stored(url).values()) == {1}


@pytest.mark.slow
def test_the_array_of_slurm_runs_with_local_processes(tmp_path: Path, task_file: Callable[[str], str]) -> None:
    task = task_file("")
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    (bin_folder / "stepwell").write_text(f'#!/bin/sh\nexec {sys.executable} -m stepwell.cli "$@"\n')
    (bin_folder / "stepwell").chmod(0o755)
    common = {**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}", "SLURM_SUBMIT_DIR": str(tmp_path)}
    tasks = [
        subprocess.Popen(
            ["bash", str(ROOT / "examples" / "slurm_array.sh"), task, "--optimizers", "sgd", "--trials", "3",
             "--seeds", "2", "--steps", "10", "--quiet"],
            env={**common, "SLURM_ARRAY_TASK_ID": str(number), "SLURM_CPUS_PER_TASK": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for number in range(2)
    ]  # fmt: skip
    said = [task.communicate(timeout=120)[0] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], said
    one, other = (json.loads((tmp_path / "runs" / f"node-{n}" / "results.json").read_text()) for n in range(2))
    assert one["complete"]
    assert timeless(one["trials"]) == timeless(other["trials"])
    assert set(stored(f"journal://{tmp_path}/comparison.log").values()) == {1}


@pytest.mark.slow
def test_the_example_of_ray_says_what_is_missing(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    if "ray" in sys.modules or shutil.which("ray"):
        pytest.skip("Ray is installed")
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "ray_workers.py"), "--storage", f"journal://{tmp_path}/shared.log"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["ray_workers.py: Ray is not installed: pip install ray"]


# Claims and outcomes.


def test_a_claim_is_of_one_machine_and_its_outcome_is_of_all(machines: Callable[..., Shared]) -> None:
    one, other = machines(), machines()
    assert one.claim("id-0", TRIALS[0])
    assert not one.claim("id-0", TRIALS[0])
    assert not other.claim("id-0", TRIALS[0])  # which has not read the storage since
    assert other.claim("id-1", TRIALS[1])
    one.append(ended(TRIALS[0]))
    other.append(ended(TRIALS[1]))
    assert [outcome.id for outcome in eagerly(one)] == ["id-0", "id-1"]
    assert {outcome.to_json() for outcome in eagerly(other)} == {outcome.to_json() for outcome in one.outcomes()}
    assert {outcome.id for outcome in eagerly(machines())} == {"id-0", "id-1"}
    for _ in range(3):
        assert len(eagerly(one)) == len(eagerly(other)) == 2
    assert len((one.path / "trials.jsonl").read_text().splitlines()) == 2


def test_a_claim_that_is_given_back_is_free_and_no_outcome(machines: Callable[..., Shared]) -> None:
    one, other = machines(), machines()
    assert one.claim("id-0", TRIALS[0])
    one.give_back("id-0")
    assert one.claim("id-1", TRIALS[1])
    one.close()
    assert eagerly(other) == []
    assert other.claim("id-0", TRIALS[0])
    assert other.claim("id-1", TRIALS[1])


def test_many_processes_at_one_trial_and_one_gets_it(machines: Callable[..., Shared]) -> None:
    folders = [machines() for _ in range(6)]
    for trial in TRIALS:
        assert [folder.claim(trial.id, trial) for folder in folders].count(True) == 1


def test_two_processes_with_one_folder_write_each_outcome_once(machines: Callable[..., Shared]) -> None:
    far, one, other = machines("far"), machines("near"), machines("near")
    for folder, trial in zip((far, one, other), TRIALS, strict=False):
        assert folder.claim(trial.id, trial)
        folder.append(ended(trial))
    for folder in (one, other, one, other):
        assert len(eagerly(folder)) == 3
    assert len((one.path / "trials.jsonl").read_text().splitlines()) == 3


def test_a_trial_whose_machine_is_silent_is_lost_and_run_again(
    machines: Callable[..., Shared], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEPWELL_HEARTBEAT", "0.1")
    silent, watcher = machines(), machines()
    assert silent.claim("id-0", TRIALS[0])
    end = time.monotonic() + 1.2  # twice as long as a silent one is waited for
    while time.monotonic() < end:
        assert eagerly(watcher) == []
        time.sleep(0.02)
    silent._beats.close()
    wait_for(lambda: eagerly(watcher), 20)
    (lost,) = eagerly(watcher)
    assert (lost.id, lost.lost, lost.status, lost.lr, lost.settings) == ("id-0", True, "crashed", 0.1, {"beta1": 0.9})
    assert eagerly(machines()) == [lost]  # all machines count the same attempts
    assert watcher.claim("id-0", TRIALS[0])
    silent.append(ended(TRIALS[0], by="late"))  # the trial is of another one now
    watcher.append(ended(TRIALS[0], by="in time"))
    final = [outcome for outcome in eagerly(machines()) if not outcome.lost]
    assert [outcome.by.split(" on ")[0] for outcome in final] == ["in time"]
    assert eagerly(silent)[-1] == final[0]


def test_an_outcome_of_a_machine_that_was_taken_for_dead_counts_if_nobody_else_has_one(
    machines: Callable[..., Shared], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEPWELL_HEARTBEAT", "0.1")
    silent, watcher = machines(), machines()
    assert silent.claim("id-0", TRIALS[0])
    silent._beats.close()
    wait_for(lambda: eagerly(watcher), 20)
    silent.append(ended(TRIALS[0]))
    assert [outcome.lost for outcome in eagerly(watcher)] == [True, False]


def test_an_outage_counts_for_nobody() -> None:
    watch, slot = Watch(), Slot(1, "id", 0, "token", every=10.0)
    for now in range(0, 10 * MISSED, 5):
        assert not watch.stale([slot], 0, float(now))
    assert watch.stale([slot], 0, 10.0 * MISSED) == [slot]
    assert not watch.stale([slot], 1, 10.0 * MISSED + 1)  # the storage has not answered meanwhile
    assert not watch.stale([slot], 1, 1e6)  # nobody has looked meanwhile
    slot.beat = 1
    assert not watch.stale([slot], 1, 1e6 + 20)
    for now in range(25, 79, 5):
        assert not watch.stale([slot], 1, 1e6 + now)
    assert watch.stale([slot], 1, 1e6 + 80) == [slot]


def test_the_trials_of_a_folder_are_brought_to_its_storage(
    machines: Callable[..., Shared], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = Folder(tmp_path / "old", PLAN)
    alone.append(ended(TRIALS[0]))
    alone.append(dataclasses.replace(ended(TRIALS[1]), status="crashed", final=None, lost=True))
    first = machines("old")
    assert "1 trials are done, 1 of them brought from" in capsys.readouterr().err
    assert eagerly(machines("new")) == [ended(TRIALS[0])]
    first.close()
    again = machines("old")
    assert len(eagerly(again)) == 2  # as before
    assert eagerly(machines("newer")) == [ended(TRIALS[0])]


def test_a_crash_is_run_again_where_that_is_asked_for(machines: Callable[..., Shared]) -> None:
    one, other = machines(), machines()
    assert one.claim("id-0", TRIALS[0])
    one.append(dataclasses.replace(ended(TRIALS[0]), status="crashed", final=None, error="it broke"))
    eagerly(other)
    assert other.claim("id-0", TRIALS[0])
    other.append(ended(TRIALS[0]))
    assert [outcome.status for outcome in eagerly(one)] == ["crashed", "finished"]


def test_an_outcome_larger_than_a_column_comes_back(machines: Callable[..., Shared]) -> None:
    points = 20_000
    values = [1 / (7 + point) for point in range(points)]
    large = dataclasses.replace(
        ended(TRIALS[0]), steps=list(range(points)), metric=values, loss=[None, *values[1:]], seconds=values
    )
    attributes = packed(large)
    assert all(len(json.dumps(value)) < LARGEST + 10 for value in attributes.values())
    assert unpacked(attributes) == large
    one, other = machines(), machines()
    assert one.claim("id-0", TRIALS[0])
    one.append(large)
    assert eagerly(other)[0].metric == values


def test_a_storage_that_does_not_answer_is_waited_for(
    machines: Callable[..., Shared], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STEPWELL_STORAGE_PATIENCE", "3")
    one = machines()
    assert one.claim("id-0", TRIALS[0])
    real, left = one._opened.storage.set_trial_user_attr, [3]

    def fails(*arguments: Any) -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise OSError("no route to host")
        real(*arguments)

    monkeypatch.setattr(one._opened.storage, "set_trial_user_attr", fails)
    one.append(ended(TRIALS[0]))
    lines = capsys.readouterr().err.splitlines()
    assert [("does not answer" in line, "answers again" in line) for line in lines[1:]] == [
        (True, False),
        (False, True),
    ]
    assert "no route to host" in lines[1]
    assert eagerly(machines())[0].id == "id-0"
    assert one.claim("id-1", TRIALS[1])
    left[0] = 1_000
    with pytest.raises(UsageError, match=r"does not answer for \d+ s \(no route to host\); all finished trials are in"):
        one.append(ended(TRIALS[1]))
    assert '"id-1"' in (one.path / "trials.jsonl").read_text()
    left[0] = 0
    one.close()
    assert {outcome.id for outcome in eagerly(machines("out0"))} == {"id-0", "id-1"}  # brought by the next call
    assert {outcome.id for outcome in eagerly(machines())} == {"id-0", "id-1"}


def test_an_operation_whose_answer_was_lost_is_not_done_twice(
    machines: Callable[..., Shared], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = machines(), machines()
    for name in ("create_new_trial", "set_trial_user_attr", "set_trial_state_values"):
        real, left = getattr(one._opened.storage, name), [1]

        def done_but_lost(*arguments: Any, real: Any = real, left: list[int] = left) -> Any:
            answer = real(*arguments)
            left[0] -= 1
            if left[0] == 0:
                raise OSError("connection reset")
            return answer

        monkeypatch.setattr(one._opened.storage, name, done_but_lost)
    assert one.claim("id-0", TRIALS[0])
    assert not other.claim("id-0", TRIALS[0])
    one.append(ended(TRIALS[0]))
    assert len(eagerly(one)) == len(eagerly(other)) == 1
    assert not other._slots.running


# What cannot be used is refused in one line.


def test_another_comparison_is_told_and_a_study_that_contradicts_is_refused(
    machines: Callable[..., Shared], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = machines()
    capsys.readouterr()
    machines(plan=dataclasses.replace(PLAN, task_digest="ab"))
    told = capsys.readouterr().err.splitlines()[0]
    assert "has another comparison of digits, which this one does not join" in told
    assert "the content of the task's file or data is '' there and 'ab' here" in told
    first._opened.storage.set_study_user_attr(first._study, "stepwell", {"format": 2, "task": "bytes"})
    with pytest.raises(
        UsageError, match=r"contains another run: task is 'bytes' there and 'digits' here; give"
    ) as caught:
        machines()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis://host", "it must be one of postgresql://user@host/database"),
        ("runs/digits", "it must be one of postgresql://"),
        ("", "it must be a URL"),
        ("sqlite://", "is in memory, where no other process sees it; name a file"),
        ("sqlite:////no/such/folder/file.db", "cannot be opened: unable to open database file"),
        ("postgresql://ann:geheim@127.0.0.1:1/db", "cannot be opened: connection .*127.0.0.1.* refused"),
        ("postgresql://ann:geheim@127.0.0.1:port/db", "is not a valid URL"),
        ("postgresql+nodriver://ann:geheim@host/db", "the driver 'nodriver' cannot be used"),
        (
            "postgresql+psycopg2://ann:geheim@host/db",
            "the driver 'psycopg2' cannot be used .*: pip install psycopg2-bin",
        ),
        ("mysql+pymysql://ann:geheim@host/db", "the driver 'pymysql' cannot be used .*: pip install pymysql"),
        ("journal:///no/such/folder/file.log", "cannot be opened: No such file or directory"),
        ("journal://", "is damaged or no journal of Optuna"),
        ("/dev/null/file.log", "cannot be opened: Not a directory"),
    ],
)
def test_what_cannot_be_opened_is_one_line(tmp_path: Path, url: str, message: str) -> None:
    if "psycopg2" in url:
        pytest.importorskip("psycopg")
        if __import__("importlib.util").util.find_spec("psycopg2"):
            pytest.skip("the driver is installed")
    with pytest.raises(UsageError, match=message) as caught:
        compare("ravine", ["sgd"], storage=url, out=tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    assert "geheim" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("dialect", "do"), [("postgresql", r"pip install 'stepwell\[storage\]'"), ("mysql", "pip install pymysql")]
)
def test_without_a_driver_there_is_a_line_that_says_which(
    dialect: str, do: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stepwell.compare.storage.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=f"no driver for {dialect} is installed: {do}"):
        open_storage(f"{dialect}://ann:geheim@host/db")


@pytest.mark.parametrize("content", [b"my notes", b"my notes\nof today\n", b'{"a": 1}\n', b"[1]\n"])
def test_a_file_of_something_else_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.log"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="is damaged or no journal of Optuna"):
        open_storage(str(path))
    assert path.read_bytes() == content


def test_a_line_that_a_killed_process_left_in_the_journal_is_removed(
    machines: Callable[..., Shared], tmp_path: Path
) -> None:
    one = machines()
    assert one.claim("id-0", TRIALS[0])
    with (tmp_path / "shared.log").open("ab") as file:
        file.write(b'{"op_code": 8, "worker_id": "half of a' + b"b" * 100_000)
    one.append(ended(TRIALS[0]))
    assert eagerly(machines()) == one.outcomes()


@pytest.mark.parametrize("given", ["0", "-1", "soon", "nan"])
def test_a_heartbeat_must_be_a_number_of_seconds(
    given: str, machines: Callable[..., Shared], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEPWELL_HEARTBEAT", given)
    with pytest.raises(UsageError, match=f"STEPWELL_HEARTBEAT='{given}'; it must be a number of seconds above 0"):
        machines()


def test_passwords_are_hidden() -> None:
    assert hidden("postgresql://ann:p@ss word@host/db") == "postgresql://ann:***@host/db"
    assert hidden("mysql://host/db?password=a&x=1") == "mysql://host/db?password=***&x=1"
    assert hidden("mysql://host/db?sslpassword=a") == "mysql://host/db?sslpassword=***"
    for plain in ("sqlite:///a:b.db", "journal:///shared/a.log", "postgresql://host/db", "postgresql://ann@host:1/db"):
        assert hidden(plain) == plain


def test_a_comparison_in_sqlite_equals_one_without(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"trials": 2, "seeds": 1, "steps": 10, "jobs": 1}
    url = f"sqlite:///{tmp_path}/file.db"
    shared = compare("ravine", ["sgd"], storage=url, out=tmp_path / "a", **settings)
    alone = compare("ravine", ["sgd"], out=tmp_path / "b", **settings)
    assert [o.final for o in shared.outcomes] == [o.final for o in alone.outcomes]
    joined = compare("ravine", ["sgd"], storage=url, out=tmp_path / "c", **settings)
    assert joined.outcomes == shared.outcomes
