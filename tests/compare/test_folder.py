"""The folder: resumable, tolerant of a torn line, and closed to another run."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stepwell.compare.book import Book
from stepwell.compare.folder import ATTEMPTS, Folder
from stepwell.compare.outcome import Outcome, crashed
from stepwell.compare.plan import Contender, Plan, Trial
from stepwell.errors import UsageError

PLAN = Plan("digits", (Contender("SGD", 1e-3, 1.0, {"momentum": 0.9}), Contender("Lion", 1e-5, 1e-2)), 6, 3, 100)
DONE = [crashed(Trial("SGD", "tune", i, 0.1, 0), "an error with é and a\ttab") for i in range(3)]


def test_outcomes_come_back_in_order(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "a" / "b", PLAN)
    assert folder.outcomes() == []
    for outcome in DONE:
        folder.append(outcome)
    assert Folder(tmp_path / "a" / "b", PLAN).outcomes() == DONE


@pytest.mark.parametrize("torn", [b"{", b'{"optimizer":"SGD","phase":"tu', b'{"optimizer":"SGD","error":"\xc3'])
def test_a_torn_last_line_is_cut_off_and_the_next_one_is_whole(tmp_path: Path, torn: bytes) -> None:
    folder = Folder(tmp_path, PLAN)
    folder.append(DONE[0])
    with (tmp_path / "trials.jsonl").open("ab") as file:
        file.write(torn)
    assert folder.outcomes() == DONE[:1]
    folder.append(DONE[1])
    assert folder.outcomes() == DONE[:2]


@pytest.mark.parametrize(
    "line", ["nonsense", "3", "{}", '{"optimizer":"SGD","phase":"tune","index":0,"status":"finished"}']
)
def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path, line: str) -> None:
    folder = Folder(tmp_path, PLAN)
    folder.append(DONE[0])
    with (tmp_path / "trials.jsonl").open("a") as file:
        file.write(line + "\n")
    folder.append(DONE[1])
    with pytest.raises(UsageError, match=r"trials\.jsonl, line 2 is damaged; delete this line"):
        folder.outcomes()


@pytest.mark.parametrize(
    "changed",
    [
        {"optimizer": 3}, {"phase": "train"}, {"index": -1}, {"index": True},
        {"status": "done"}, {"lr": "0.1"}, {"lr": None}, {"seed": 0.5}, {"steps": 3},
        {"steps": [0, 1], "metric": [1.0]},
        {"steps": [0], "metric": [None], "loss": [None], "seconds": [0.0]}, {"status": "finished"}, {"final": "good"},
        {"error": 3}, {"path": [[1.0]]}, {"state_bytes": 1e400}, {"phase": ["tune"]}, {"lost": 1},
        {"settings": {"beta1": "x"}}, {"settings": []}, {"id": 3}, {"by": None},
    ],
    ids=str,
)  # fmt: skip
def test_a_line_that_somebody_edited_is_named(tmp_path: Path, changed: dict[str, Any]) -> None:
    folder = Folder(tmp_path, PLAN)
    folder.append(DONE[0])
    with (tmp_path / "trials.jsonl").open("a") as file:
        file.write(json.dumps({**json.loads(DONE[1].to_json()), **changed}) + "\n")
    with pytest.raises(UsageError, match=r"trials\.jsonl, line 2 is damaged; delete this line") as caught:
        folder.outcomes()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    ["", "3", "[]", "null", '{"contenders": 3}', '{"contenders": [3]}', '{"contenders": [{}]}',
     '{"steps": ' + "9" * 5000, "[" * 100_000, "\xff\xfe", '{"contenders": [{"name": 3}]}'],
    ids=lambda content: content[:24],
)  # fmt: skip
def test_settings_that_somebody_edited_are_named(tmp_path: Path, content: str) -> None:
    Folder(tmp_path, PLAN).append(DONE[0])
    (tmp_path / "run.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(UsageError, match=r"run\.json is damaged|contains another run") as caught:
        Folder(tmp_path, PLAN)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("name", ["run.json", "trials.jsonl"])
def test_a_pipe_in_the_folder_is_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(UsageError, match="is not a file; give another --out"):
        Folder(tmp_path, PLAN)


def test_several_processes_write_one_file_and_each_reads_all(tmp_path: Path) -> None:
    one, other = Folder(tmp_path, PLAN), Folder(tmp_path, PLAN)
    one.append(DONE[0])
    assert other.outcomes() == DONE[:1]
    other.append(DONE[1])
    one.append(DONE[2])
    assert one.outcomes() == other.outcomes() == DONE


def test_a_claim_is_of_one_process_and_ends_with_its_outcome(tmp_path: Path) -> None:
    one, other = Folder(tmp_path, PLAN), Folder(tmp_path, PLAN)
    outcome = dataclasses.replace(DONE[0], id="abc")
    assert one.claim("abc")
    assert not one.claim("abc")
    assert not other.claim("abc")
    assert other.claim("other")
    one.append(outcome)
    assert other.claim("abc")
    other.give_back("abc")
    assert one.claim("abc")
    one.close()
    other.close()
    assert not (tmp_path / "claims").exists()


def test_the_claims_of_a_process_that_is_killed_are_free_again(tmp_path: Path) -> None:
    folder = Folder(tmp_path, PLAN)
    code = (
        f"from pathlib import Path; from stepwell.compare.claims import Claims; import sys, time\n"
        f"print(Claims(Path({str(tmp_path / 'claims')!r})).take('abc'), flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        assert not folder.claim("abc")
        process.kill()
    assert folder.claim("abc")


def test_a_trial_whose_process_died_runs_again_a_few_times() -> None:
    dead = dataclasses.replace(DONE[0], id="a", lost=True)
    book = Book([])
    for count in range(1, ATTEMPTS):
        book.read([dead] * count)
        assert not book.done
    book.read([dead] * ATTEMPTS)
    assert book.done == {"a": dead}
    later = Book([dead] * ATTEMPTS)  # the same command again
    assert not later.done
    later.read([dead] * (ATTEMPTS + 1))
    assert later.done == {"a": dead}
    raised = dataclasses.replace(DONE[0], id="b")
    assert Book([raised]).done == {"b": raised}
    again = Book([raised], retry=True)
    assert not again.done
    again.read([raised, raised])
    assert again.done == {"b": raised}


def test_fields_of_a_later_version_are_passed_over() -> None:
    value = {**json.loads(DONE[0].to_json()), "colour": "blue"}
    assert Outcome.from_json(json.dumps(value)) == DONE[0]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"task": "bytes"}, "task is 'digits' there and 'bytes' here"),
        ({"steps": 50, "seeds": 1}, "steps is 100 there and 50 here"),
        ({"task_digest": "ab"}, "the content of the task's file or data is '' there and 'ab' here"),
        ({"device": "cuda"}, "device is 'cpu' there and 'cuda' here"),
    ],
)
def test_another_run_is_refused_by_its_first_difference(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    Folder(tmp_path, PLAN).append(DONE[0])
    with pytest.raises(UsageError) as caught:
        Folder(tmp_path, dataclasses.replace(PLAN, **changed))
    assert message in str(caught.value)
    assert "give another --out, or delete" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changed",
    [{"trials": 7}, {"seeds": 1}, {"prune": False}, {"contenders": PLAN.contenders[:1]}, {"widen": False}],
)
def test_a_folder_grows_with_every_setting_that_contradicts_nothing(tmp_path: Path, changed: dict[str, Any]) -> None:
    Folder(tmp_path, PLAN).append(DONE[0])
    assert Folder(tmp_path, dataclasses.replace(PLAN, **changed)).outcomes() == DONE[:1]


def test_a_run_without_any_trial_is_replaced(tmp_path: Path) -> None:
    Folder(tmp_path, PLAN)
    changed = dataclasses.replace(PLAN, steps=7)
    Folder(tmp_path, changed).append(DONE[0])
    assert json.loads((tmp_path / "run.json").read_text())["steps"] == 7
    assert Folder(tmp_path, changed).outcomes() == DONE[:1]


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UsageError, match="is not empty and contains no comparison; give another --out"):
        Folder(tmp_path, PLAN)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_in_the_way_and_damaged_settings(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot write to .*file"):
        Folder(tmp_path / "file", PLAN)
    Folder(tmp_path / "run", PLAN).append(DONE[0])
    (tmp_path / "run" / "run.json").write_text("{half")
    with pytest.raises(UsageError, match=r"run\.json is damaged"):
        Folder(tmp_path / "run", PLAN)
