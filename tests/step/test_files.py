"""Checkpoint files: a save replaces what the saves of its run have made, at no moment is there none, and an error is
one line."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from stepwell.errors import UsageError
from stepwell.optimizers import SGD
from stepwell.step import Step, files, processes
from tests.step.small import data, loss, model


def make() -> Step:
    network = model()
    return Step(SGD(network.named_parameters(), lr=0.1), model=network)


def extras(folder: Path) -> dict[str, Any]:
    return {file.name: torch.load(file)["extra"] for file in sorted(folder.glob("*.pt"))}


# What is not this run's stays


def test_numbered_files_of_the_user_stay(tmp_path: Path) -> None:
    step = make()
    for epoch in range(1, 5):
        step.save(tmp_path / f"ck.{epoch}.pt", keep=1, extra=epoch)
    torch.save({"mine": 5}, tmp_path / "ck.5.pt")
    (tmp_path / "ck.6.pt").mkdir()
    before = {name: (tmp_path / name).read_bytes() for name in ("ck.1.pt", "ck.2.pt", "ck.3.pt", "ck.4.pt", "ck.5.pt")}
    for number in range(5):
        step.save(tmp_path / "ck.pt", extra=number)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    (tmp_path / "ck.6.pt").rmdir()
    (tmp_path / "ck.5.pt").unlink()
    kept = extras(tmp_path)
    assert (kept["ck.pt"], kept["ck.7.pt"], kept["ck.8.pt"]) == (4, 3, 2)
    assert len(kept) == 7
    (tmp_path / "ck.pt").write_bytes(b"torn")
    with pytest.warns(UserWarning, match=r"loaded .*ck\.7\.pt instead"):
        assert make().load(tmp_path / "ck.pt") == 3


@pytest.mark.parametrize("copy", [shutil.copy, shutil.copy2])
def test_a_copy_that_the_user_made_stays(copy: Any, tmp_path: Path) -> None:
    step = make()
    for number in range(2):
        step.save(tmp_path / "run.pt", keep=2, extra=number)
    copy(tmp_path / "run.pt", tmp_path / "run.2.pt")
    for number in range(2, 6):
        step.save(tmp_path / "run.pt", keep=2, extra=number)
    assert extras(tmp_path) == {"run.1.pt": 4, "run.2.pt": 1, "run.pt": 5}


OTHERS: dict[str, Any] = {
    "a torch file": lambda path: torch.save({"weights": torch.zeros(3)}, path),
    "text": lambda path: path.write_text("notes"),
    "empty": lambda path: path.touch(),
    "a link": lambda path: path.symlink_to(path.with_name("elsewhere.pt")),
    "a pipe": lambda path: os.mkfifo(path),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_a_file_that_no_step_wrote_is_not_replaced(other: Any, tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    other(path)
    before = path.lstat()
    with pytest.raises(UsageError, match=r"run\.pt (is|was) .*is not replaced; give") as caught:
        make().save(path)
    assert "\n" not in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["run.pt"]
    assert (path.lstat().st_ino, path.lstat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_checkpoints_of_an_earlier_run_are_kept_and_a_run_that_goes_on_replaces_its_own(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    first = make()
    for number in range(2):
        first.save(path, keep=2, extra=f"first {number}")
    anew = make()
    for number in range(4):
        anew.save(path, keep=2, extra=f"second {number}")
    kept = extras(tmp_path)
    assert set(kept.values()) == {"first 0", "first 1", "second 2", "second 3"}
    assert kept["run.pt"] == "second 3"
    with pytest.raises(UsageError, match=r"was written by another Step of this process .*its own path"):
        first.save(path)
    gone_on = make()
    assert gone_on.load(path) == "second 3"
    gone_on.save(path, keep=2, extra="second 4")
    assert set(extras(tmp_path).values()) == {"first 0", "first 1", "second 3", "second 4"}
    path.write_bytes(path.read_bytes()[:-100])  # what was before comes from this run, not from the one before
    with pytest.warns(UserWarning, match="loaded"):
        assert make().load(path) == "second 3"


def test_a_folder_that_was_moved_is_gone_on_with(tmp_path: Path) -> None:
    step = make()
    for number in range(3):
        step.save(tmp_path / "a" / "run.pt", extra=number)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    other = make()
    assert other.load(tmp_path / "b" / "run.pt") == 2
    other.save(tmp_path / "b" / "run.pt", extra=3)
    assert extras(tmp_path / "b")["run.pt"] == 3
    assert set(extras(tmp_path / "b").values()) == {0, 1, 2, 3}


def test_a_damaged_file_that_was_passed_over_is_replaced(tmp_path: Path) -> None:
    step = make()
    for number in range(2):
        step.save(tmp_path / "run.pt", extra=number)
    (tmp_path / "run.pt").write_bytes(b"torn")
    other = make()
    with pytest.warns(UserWarning, match="damaged"):
        assert other.load(tmp_path / "run.pt") == 0
    other.save(tmp_path / "run.pt", extra=2)
    assert torch.load(tmp_path / "run.pt")["extra"] == 2


def test_a_checkpoint_without_a_label_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    path, step = tmp_path / "run.pt", make()
    assert step.model is not None
    torch.save({"step": step.state_dict(), "model": step.model.state_dict(), "extra": 1}, path)
    other = make()
    assert other.load(path) == 1
    other.save(path, keep=2, extra=2)
    other.save(path, keep=2, extra=3)
    assert extras(tmp_path) == {"run.1.pt": 2, "run.pt": 3}


# Killed at any moment


class Killed(BaseException):
    pass


CALLS = ("replace", "link", "unlink", "fsync", "open", "rename")


@contextmanager
def killed_at(number: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """From the call `number` of the system on, nothing happens any more."""
    made: list[str] = []

    def stopping(name: str, original: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            if len(made) >= number:
                raise Killed
            made.append(name)
            return original(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, stopping(name, getattr(os, name)))
        patch.setattr(Path, "unlink", lambda self, missing_ok=False: os.unlink(self))
        yield made


@pytest.mark.parametrize("keep", [1, 2, 3])
@pytest.mark.parametrize("saves", [0, 1, 2, 4])
def test_killed_between_any_two_calls_the_newest_whole_checkpoint_is_found(
    keep: int, saves: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(40):
        folder = tmp_path / str(number)
        folder.mkdir()
        step = make()
        for extra in range(saves):
            step.save(folder / "run.pt", keep=keep, extra=extra)
        done = False
        with killed_at(number, monkeypatch) as made:
            try:
                step.save(folder / "run.pt", keep=keep, extra=saves)
                done = True
            except Killed:
                pass
        if saves:
            assert (folder / "run.pt").exists(), made
            resumed = make()
            found = resumed.load(folder / "run.pt")
            assert found in ((saves,) if done else (saves - 1, saves)), made
            for extra in range(found + 1, found + 4):
                resumed.save(folder / "run.pt", keep=keep, extra=extra)
            assert sorted(extras(folder).values()) == list(range(found + 4 - keep, found + 4)), made
        if done:
            return
    raise AssertionError("a save makes more calls than were tried")


LOOP = """
import sys
from pathlib import Path
import torch
from tests.step.test_files import make
torch.set_num_threads(1)
path, step = Path(sys.argv[1]) / "run.pt", make()
begin = step.load(path) + 1 if path.exists() else 0
print("ready", flush=True)
for number in range(begin, 100_000):
    step.save(path, extra=number)
    print(number, flush=True)
"""


def start(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", LOOP, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.slow
def test_really_killed_nothing_is_lost_and_nothing_left_behind(tmp_path: Path) -> None:
    chance, last = random.Random(0), -1
    for _ in range(4):
        process = start(tmp_path)
        assert process.stdout is not None
        for line in process.stdout:
            last = max(last, int(line))
            if chance.random() < 0.05:
                time.sleep(chance.random() * 0.004)
                process.kill()
                break
        rest = [int(line) for line in process.stdout if line.strip()]
        assert process.wait() == -signal.SIGKILL
        process.stdout.close()
        last = max([last, *rest])
        assert make().load(tmp_path / "run.pt") in (last, last + 1)
        assert len(list(tmp_path.glob(".run.pt.*"))) <= 2  # of the one just killed; not of those before
    step = make()
    step.load(tmp_path / "run.pt")
    step.save(tmp_path / "run.pt")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["run.1.pt", "run.2.pt", "run.pt"]


def test_unfinished_files_of_dead_processes_go_and_of_living_ones_stay(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    parent = f"{processes.host()}-{os.getppid()}-{processes.started(os.getppid())}"
    names = {
        f".run.pt.{processes.host()}-{dead.pid}-17.part": False,
        f".run.pt.{processes.host()}-{dead.pid}-17.r3.part": False,
        f".run.pt.{processes.host()}-{os.getppid()}-1.link.part": False,  # the number was given away anew
        f".run.pt.{parent}.part": True,
        ".run.pt.0123abcd-1-1.part": True,  # of another machine, new
        ".run.pt.0123abcd-2-1.part": False,  # of another machine, two days old
        f".other.pt.{processes.host()}-{dead.pid}-17.part": True,
        ".run.pt.notes.part": True,
    }
    for name in names:
        (tmp_path / name).write_bytes(b"half")
    old = time.time() - 2 * 86_400
    os.utime(tmp_path / ".run.pt.0123abcd-2-1.part", (old, old))
    make().save(tmp_path / "run.pt")
    assert {name: (tmp_path / name).exists() for name in names} == names


# Refusals


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """No file may become longer: the system refuses the write in the middle, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_write_that_fails_is_one_line_and_an_oserror(tmp_path: Path) -> None:
    network = nn.Linear(200, 200)
    step = Step(SGD(network.named_parameters(), lr=0.1), model=network)
    step.save(tmp_path / "run.pt", keep=1, extra=1)
    before = (tmp_path / "run.pt").read_bytes()
    for limit in (1_000, 60_000, len(before) - 30):
        with full_disk(limit), pytest.raises(OSError, match=r"was not saved: File too large .*MiB are free") as caught:
            step.save(tmp_path / "run.pt", keep=1, extra=2)
        assert isinstance(caught.value, UsageError)
        assert caught.value.errno is not None
        assert "\n" not in str(caught.value)
        assert "enforce" not in str(caught.value)
        assert [file.name for file in tmp_path.iterdir()] == ["run.pt"]
        assert (tmp_path / "run.pt").read_bytes() == before
    step.save(tmp_path / "run.pt", keep=1, extra=2)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"run\.pt was not saved: (Not a directory|File exists)") as caught:
        make().save(tmp_path / "file" / "run.pt")
    assert isinstance(caught.value, UsageError)
    with pytest.raises(UsageError, match="path=3; it must be a file name"):
        make().save(3)  # type: ignore[arg-type]


@pytest.mark.slow
def test_two_processes_that_save_to_one_path(tmp_path: Path) -> None:
    """The second sees that the first lives; and where they begin together, one of them is told."""
    process = start(tmp_path)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        step = make()
        with pytest.raises(UsageError, match=rf"was written by process {process.pid} .*its own path"):
            step.save(tmp_path / "run.pt")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert isinstance(make().load(tmp_path / "run.pt"), int)


def test_a_second_run_from_the_same_checkpoint_does_not_replace_the_first(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    make().save(path, extra=0)
    one, other = make(), make()
    one.load(path)
    other.load(path)
    one.save(path, extra=1)
    before = extras(tmp_path)
    with pytest.raises(UsageError, match="was written by another Step"):
        other.save(path, extra=2)
    assert extras(tmp_path) == before


def test_a_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any, **__: Any) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", none)
    step = make()
    for number in range(5):
        step.save(tmp_path / "run.pt", extra=number)
    assert extras(tmp_path) == {"run.1.pt": 3, "run.2.pt": 2, "run.pt": 4}


def test_the_label_is_read_back_and_torch_reads_the_file(tmp_path: Path) -> None:
    step = make()
    step(loss(step.model, *data()))  # type: ignore[arg-type]
    step.save(tmp_path / "run.pt")
    label = files.read_label(tmp_path / "run.pt")
    assert label is not None
    assert label["name"] == "run.pt"
    for options in ({"mmap": True}, {"weights_only": True}, {"weights_only": False}):
        assert torch.load(tmp_path / "run.pt", **options)["step"]["number"] == 1
