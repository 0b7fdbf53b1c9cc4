"""The journal: what is written is read again, also after a crash and for a resumed run; other files are refused."""

from __future__ import annotations

import json
import math
import os
import pickle
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from stepwell.doctor import journal as module
from stepwell.doctor.journal import Journal, line, read
from stepwell.doctor.reading import Reader
from stepwell.doctor.recorded import finding_of
from stepwell.errors import UsageError
from stepwell.findings import Edit, Finding, Fix, Source, Tensor, Trial, as_dict
from tests.doctor.runs import FACTS, PARAMETERS, finding, record


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(text, parse_constant=pytest.fail) for text in path.read_text().splitlines()]


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    journal = Journal(path)
    journal.start(FACTS)
    journal.step({"step": 1, "loss": 2.0, "lr": [1e-3], "grad_norm": 0.8, "clipped": False, "scale": 65536.0})
    journal.step({"step": 2, "loss": 1.5, "grad": [0.1] * 5 + [None], "weight": [1.0] * 6, "update": [0.0] * 6})
    journal.val(2, 0.5)
    found = finding(step=2)
    journal.finding(2, found)
    journal.step({"step": 3})
    journal.end(3)
    run = read(path)
    assert (run.name, run.starts, run.ended, run.unreadable) == ("run.jsonl", 1, True, 0)
    assert run.step == [1, 2, 3]
    assert run.loss == [2.0, 1.5, None]
    assert run.lr == [[1e-3], None, None]
    assert run.grad_norm == [0.8, None, None]
    assert run.clipped == [False, None, None]
    assert run.scale == [65536.0, None, None]
    assert run.vals == [(2, 0.5)]
    assert [(sample.step, sample.grad) for sample in run.samples] == [(2, [0.1] * 5 + [None])]
    assert run.parameters == PARAMETERS
    assert run.facts["optimizers"] == FACTS["optimizers"]
    assert run.begun is not None
    ((step, again),) = run.findings
    assert step == 2
    assert as_dict(again) == as_dict(found)
    assert lines(path)[0] | FACTS == lines(path)[0]
    assert lines(path)[-1] == {"kind": "end", "step": 3}


def test_numbers_that_json_has_not_are_written_as_text_and_read_as_numbers(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    journal = Journal(path)
    journal.start({**FACTS, "parameters": ["nan"], "optimizers": [{"name": "A", "groups": [{"max_norm": math.inf}]}]})
    journal.step({"step": 1, "loss": math.nan, "lr": [math.inf], "grad": [-math.inf], "weight": [math.nan]})
    journal.val(1, -math.inf)
    written = lines(path)
    assert (written[1]["loss"], written[1]["lr"], written[1]["grad"]) == ("nan", ["inf"], ["-inf"])
    run = read(path)
    assert math.isnan(run.loss[0] or 0)
    assert run.lr == [[math.inf]]
    assert run.samples[0].grad == [-math.inf]
    assert run.vals == [(1, -math.inf)]
    assert run.parameters == ["nan"]  # a name stays a name
    assert run.facts["optimizers"][0]["groups"] == [{"max_norm": math.inf}]


def test_values_of_torch_and_numpy_are_written_as_numbers() -> None:
    import numpy as np
    import torch

    given = {"a": torch.tensor(0.5), "b": np.float32(2), "c": torch.ones(2), "d": np.bool_(True), "e": torch.float16}
    assert json.loads(line(given)) == {"a": 0.5, "b": 2.0, "c": [1.0, 1.0], "d": True, "e": "torch.float16"}
    assert json.loads(line({"a": torch.tensor(math.nan), "b": "\ud800"})) == {"a": "nan", "b": "\ud800"}


@pytest.mark.parametrize("slow", [False, True])
def test_a_killed_process_loses_at_most_fifty_lines(slow: bool, tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    code = (
        "import os, signal, time\nfrom stepwell.doctor import journal as module\nmodule.SECONDS = 0.05\n"
        f"journal = module.Journal({str(path)!r})\njournal.start({{}})\n"
        f"for step in range(1, {4 if slow else 1024}):\n"
        "    journal.step({'step': step})\n"
        f"    time.sleep({0.06 if slow else 0})\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    run = read(path)
    assert not run.ended
    assert run.step[-1] == 3 if slow else 1023 - module.LINES <= run.step[-1] <= 1023


def test_a_finding_is_on_disk_immediately_and_so_is_the_end_of_the_process(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    journal = Journal(path)
    journal.start({})
    journal.step({"step": 1})
    journal.step({"step": 2})
    journal.finding(2, finding())
    assert len(lines(path)) == 4
    journal.step({"step": 3})
    del journal
    assert len(lines(path)) == 5
    code = (
        f"from stepwell.doctor.journal import Journal; j = Journal({str(path)!r}); j.start({{}}); j.step({{'step': 4}})"
    )
    subprocess.run([sys.executable, "-c", code + "; 1 / 0"], check=False, stderr=subprocess.DEVNULL)
    assert read(path).step == [1, 2, 3, 4]


def test_an_unfinished_last_line_is_skipped_and_cut_off_by_a_resumed_run(tmp_path: Path) -> None:
    path = record(tmp_path, steps=20, ends=False)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"kind":"step","step":21,"lo')
    assert read(path).step[-1] == 20
    assert read(path).unreadable == 0
    journal = Journal(path)
    assert path.read_bytes() == whole
    journal.start(FACTS)
    journal.step({"step": 21, "loss": 0.1})
    journal.end(21)
    run = read(path)
    assert (run.step, run.starts, run.ended, run.unreadable) == (list(range(1, 22)), 2, True, 0)


def test_what_a_resumed_run_repeats_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    journal = Journal(path)
    journal.start(FACTS)
    for step in range(1, 11):
        journal.step({"step": step, "loss": 1.0})
    journal.val(4, 0.4)
    journal.val(8, 0.8)
    journal.finding(3, finding("D01", step=3))
    journal.finding(9, finding("D02", step=9))
    journal.start(FACTS)
    journal.finding(6, finding("D04", step=6))  # by the new start, before its first step
    journal.finding(6, finding("D01", step=3))  # said before
    for step in range(6, 9):
        journal.step({"step": step, "loss": 2.0})
    run = read(path) if journal.flush() is None else None
    assert run is not None
    assert (run.step, run.loss) == ([1, 2, 3, 4, 5, 6, 7, 8], [1.0] * 5 + [2.0] * 3)
    assert run.vals == [(4, 0.4)]
    assert [one.code for _, one in run.findings] == ["D01", "D04"]
    assert (run.starts, run.ended) == (2, False)


def test_two_records_of_one_step_are_one(tmp_path: Path) -> None:
    journal = Journal(None)
    journal.start(FACTS)
    journal.step({"step": 1, "loss": 1.0})
    journal.step({"step": 1, "grad_norm": 2.0})
    assert (journal.run().loss, journal.run().grad_norm) == ([1.0], [2.0])


def test_samples_of_other_parameters_are_dropped(tmp_path: Path) -> None:
    journal = Journal(None)
    journal.start({"parameters": ["a"]})
    journal.step({"step": 1, "weight": [1.0]})
    journal.start({"parameters": ["b"]})
    journal.step({"step": 2, "weight": [2.0]})
    journal.step({"step": 3, "weight": [2.0, 3.0]})  # not one for each parameter
    assert [(sample.step, sample.weight) for sample in journal.run().samples] == [(2, [2.0]), (3, None)]


def test_without_a_file_the_records_stay_in_memory_and_do_not_grow_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "KEPT", 100)
    journal = Journal(None)
    journal.start(FACTS)
    for step in range(1, 1001):
        journal.step({"step": step, "loss": float(step)})
        if step == 7:
            journal.finding(7, finding())
    run = journal.run()
    assert 50 <= len(run.step) <= 100
    assert run.step[0] == 1
    gaps = {b - a for a, b in pairwise(run.step)}
    assert len(gaps) == 1
    assert run.step[-1] > 1000 - max(gaps)
    assert len(run.findings) == 1


OTHER = {
    "empty.jsonl": (b"", "empty.jsonl is empty"),
    "text.txt": (b"hello\n", "text.txt is not a journal of the doctor"),
    "trials.jsonl": (b'{"optimizer":"sgd"}\n', "is not a journal of the doctor"),
    "list.json": (b"[1, 2]", "is not a journal of the doctor"),
    "binary": (bytes(range(256)), "is not a journal of the doctor"),
    "deep.json": (b"[" * 100_000, "is not a journal of the doctor"),
    "newer.jsonl": (b'{"kind":"start","format":2}\n', "is a journal of format 2, and this version reads format 1"),
    "headless.jsonl": (b'{"kind":"step","step":1}\n', "is not a journal of the doctor"),
}


@pytest.mark.parametrize("name", OTHER)
def test_another_file_is_refused_in_one_line_and_not_changed(name: str, tmp_path: Path) -> None:
    data, message = OTHER[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UsageError, match=message):
        read(tmp_path / name)
    if data:
        with pytest.raises(UsageError, match="exists and is not a journal of the doctor; give another path"):
            Journal(tmp_path / name)
        assert (tmp_path / name).read_bytes() == data


def test_a_path_that_is_no_file_is_refused(tmp_path: Path) -> None:
    for call in (read, Journal):
        with pytest.raises(UsageError, match="is not a file"):
            call(tmp_path)
        with pytest.raises(UsageError, match="must be a path"):
            call(3)  # type: ignore[operator]  # a union of functions with and without arguments
    with pytest.raises(UsageError, match="does not exist"):
        read(tmp_path / "none.jsonl")
    with pytest.raises(UsageError, match="cannot write the journal"):
        Journal(tmp_path / "no" / "folder.jsonl")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="is not a file"):
        Journal(tmp_path / "pipe")


def test_a_run_that_was_killed_in_its_first_line_starts_again(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.write_text('{"kind":"start","for')
    Journal(path).start(FACTS)
    assert read(path).starts == 1


def test_damaged_lines_are_counted(tmp_path: Path) -> None:
    path = record(tmp_path, steps=3)
    bad = ["\0\0\0", "[1]", '{"kind":"step"}', '{"kind":"step","step":true}', '{"kind":"val","step":1,"value":"x"}']
    bad += ['{"kind":"finding","step":1,"finding":{"code":"D01"}}']
    path.write_text(path.read_text() + "\n".join(bad) + '\n{"kind":"later","step":3}\n')
    run = read(path)
    assert run.unreadable == len(bad)
    assert run.step == [1, 2, 3]


def test_a_full_disk_warns_once_and_does_not_stop_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path / "run.jsonl")
    journal.start(FACTS)

    def full(file: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.warns(UserWarning, match=r"run.jsonl ends here: No space left on device"):
        journal.finding(1, finding())
    for step in range(200):
        journal.step({"step": step})
    journal.close()


def test_a_fork_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    code = (
        "import os\nfrom stepwell.doctor.journal import Journal\n"
        f"journal = Journal({str(path)!r})\njournal.start({{}})\n"
        "journal.step({'step': 1})\njournal.step({'step': 2})\n"
        "child = os.fork()\nif not child:\n    journal.close()\n    os._exit(0)\nos.waitpid(child, 0)\njournal.end(2)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert [one["kind"] for one in lines(path)] == ["start", "step", "step", "end"]
    with pytest.raises(UsageError, match="cannot be copied or pickled"):
        pickle.dumps(Journal(None))


def test_a_reader_follows(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.touch()
    reader = Reader(path)
    assert not reader.more()
    assert not reader.begun
    with path.open("a") as file:
        file.write('{"kind":"start",')
        file.flush()
        assert not reader.more()
        file.write('"format":1}\n{"kind":"step","step":1}\n{"kind":"st')
        file.flush()
        assert reader.more()
        assert reader.run().step == [1]
        file.write('ep","step":2}\n')
        file.flush()
        assert reader.more()
        assert not reader.more()
    assert reader.run().step == [1, 2]
    path.write_text('{"kind":"start","format":1}\n')  # another run under the same name
    assert reader.more()
    assert reader.run().step == []


PLACES = [Tensor("a", 3), Trial("adamw", 1), Source("train.py", 3, 1, (3, 9))]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: type(place).__name__)
def test_a_finding_of_any_place_comes_back(place: Tensor | Trial | Source) -> None:
    found = Finding(
        check=finding().check, place=place, seen="seen", instead="do this", fix=Fix("fix", (Edit((1, 1), (1, 2), "x"),))
    )
    again = finding_of(json.loads(json.dumps(as_dict(found))))
    assert again is not None
    assert as_dict(again) == as_dict(found)
    assert (again.place, again.fix) == (found.place, found.fix)
    assert finding_of({**as_dict(found), "place": {"kind": "moon"}}) is None
    assert finding_of({**as_dict(found), "severity": "fatal"}) is None


def test_a_record_costs_little(tmp_path: Path) -> None:
    """A step of a small model takes about 500 us; measured here: 15 us for a record."""
    journal = Journal(tmp_path / "run.jsonl")
    journal.start(FACTS)
    begin = time.process_time()
    for step in range(2000):
        journal.step({"step": step, "loss": 0.5, "lr": [0.1, 0.2], "grad_norm": 1.0, "clipped": False})
    assert (time.process_time() - begin) / 2000 < 200e-6
