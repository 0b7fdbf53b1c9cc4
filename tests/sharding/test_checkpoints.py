"""The checkpoint of a sharded run is a folder: every rank continues bit for bit, and any number of processes loads
it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import stepwell as sw
from tests.processes import Answers, in_processes
from tests.sharding import checkpoints as cases

pytest.importorskip("torch.distributed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("checkpoints"),
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("one_thread"),
]

FORMATS = [*cases.FORMATS, *cases.MATRICES]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("sharded")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEPWELL_TEST_FOLDER", str(folder))
        yield folder


@pytest.fixture(scope="module")
def alone(place: Path) -> dict[str, Any]:
    """Files of one process, and what it has then and three updates later."""
    found = {}
    for name in FORMATS:
        network, step = cases.make(name)
        torch.manual_seed(1)
        cases.train(network, step, 0, 2)
        step.save(place / f"{name}.pt")
        found[name] = cases.held(network, step), cases.updated(network, step)
    cases.save_short_rows_of_one_process()
    return found


@pytest.fixture(scope="module")
def two(place: Path, alone: dict[str, Any]) -> Answers:
    return in_processes(cases.SAVING, 2)


@pytest.fixture(scope="module")
def four(place: Path, two: Answers) -> Answers:
    return in_processes(cases.LOADING, 4)


@pytest.fixture(scope="module")
def one(place: Path, two: Answers) -> dict[str, Any]:
    return {name: case() for name, case in cases.LOADING.items() if name != "rows"}


def check_equal(ours: Any, expected: Any) -> None:
    if isinstance(expected, dict):
        assert ours.keys() == expected.keys()
        ours, expected = [ours[key] for key in expected], list(expected.values())
    for mine, theirs in zip(ours, expected, strict=True):
        same = torch.equal(mine, theirs) if isinstance(theirs, torch.Tensor) else mine == theirs
        assert same


def answer(found: Answers, rank: int, case: str) -> Any:
    assert not isinstance(found[rank][case], str), found[rank][case]
    return found[rank][case]


@pytest.mark.parametrize("format_", FORMATS)
def test_every_rank_continues_bit_for_bit_with_its_own_dropout(format_: str, two: Answers) -> None:
    for rank in range(2):
        _, trained, _ = answer(two, rank, f"save {format_}")
        check_equal(answer(two, rank, f"resume {format_}"), trained)
    assert answer(two, 0, f"load {format_}")[4] != answer(two, 1, f"load {format_}")[4]
    assert answer(two, 0, f"load {format_}")[3] == []


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("format_", FORMATS)
def test_any_number_of_processes_loads_every_slot_and_updates_the_same(
    format_: str, processes: int, two: Answers, four: Answers, one: dict[str, Any]
) -> None:
    saved, _, _ = answer(two, 0, f"save {format_}")
    found = {1: {0: one}, 2: two, 4: four}[processes]
    first = answer(two, 0, f"load {format_}")[2]
    for rank in range(processes):
        ours, extra, weights, said, _ = answer(found, rank, f"load {format_}")
        assert extra == {"epoch": 3}
        check_equal(ours, saved)
        check_equal(weights, first)
        assert bool(said) == (rank >= 2)  # ranks that did not exist draw random numbers of their own
    if processes == 4:
        assert len({tuple(answer(four, rank, f"load {format_}")[4]) for rank in range(4)}) == 4


@pytest.mark.parametrize("format_", FORMATS)
def test_a_file_of_one_process_is_loaded_by_a_sharded_run(format_: str, two: Answers, alone: dict[str, Any]) -> None:
    saved, later = alone[format_]
    for rank in range(2):
        ours, weights = answer(two, rank, f"file {format_}")
        check_equal(ours, saved)
        check_equal(weights, later)


def test_codes_of_one_process_in_blocks_that_cross_rows_are_refused_in_a_sharded_run(two: Answers) -> None:
    assert "these are not the blocks of 3,960 elements" in answer_text(two, 0, "short rows")


def test_earlier_checkpoints_are_kept(place: Path, two: Answers) -> None:
    names = sorted(path.name for path in (place / "fp32").iterdir())
    assert names == ["run", "run.1", "run.2"]
    found = [torch.load(place / "fp32" / name / "rank1.pt", weights_only=True) for name in names]
    assert [content["content"]["extra"]["epoch"] for content in found] == [3, 2, 1]


def test_a_damaged_folder_is_passed_over(place: Path, two: Answers) -> None:
    path = place / "int8" / "run"
    (path / "rank1.pt").unlink()
    _, step = cases.make("int8")
    with pytest.warns(UserWarning, match=r"run is cut short or damaged.*: loaded .*run\.1 instead"):
        assert step.load(path) == {"epoch": 2}
    assert step.number == 3


def test_blocks_that_cross_rows_are_refused_by_name(place: Path, two: Answers, four: Answers) -> None:
    assert answer_text(two, 0, "rows") == str(place / "rows")
    said = answer_text(four, 0, "rows")
    assert "has codes in blocks that cross the rows of the parameter" in said
    with pytest.raises(sw.UsageError, match="has codes in blocks that cross the rows of the parameter"):
        cases.save_short_rows()


def answer_text(found: Answers, rank: int, case: str) -> str:
    assert isinstance(found[rank][case], str)
    return str(found[rank][case])


def test_a_save_that_one_rank_misses_is_an_error_and_no_hang(two: Answers) -> None:
    said = answer_text(two, 0, "alone")
    assert "every rank must call step.save in this run; after 1 seconds rank 1 had not" in said
    assert two[1]["alone"] is None


def test_a_file_of_the_user_is_not_replaced(place: Path, two: Answers) -> None:
    for rank in range(2):
        assert "was not written by step.save of a sharded model and is not replaced" in answer_text(
            two, rank, "over a file"
        )
    assert (place / "mine.txt").read_text() == "mine"


def test_a_full_disk_in_one_process_leaves_the_checkpoint_before(two: Answers) -> None:
    for rank in range(2):
        said, kept, later, names = answer(two, rank, "full disk")
        assert len(said) == 2
        assert all("No space left on device" in one for one in said), said
        assert all(one.startswith("SaveFailed: Step: ") and "was not saved" in one for one in said), said
        assert kept == (1, 1)
        assert later == (2, 2)
        assert names == ["full", "full.1"]  # nothing of the saves that failed


def test_a_step_is_stateful_for_distributed_checkpoints(two: Answers) -> None:
    for rank in range(2):
        number, (trained, resumed), said = answer(two, rank, "dcp")
        assert number == 3
        check_equal(resumed, trained)
        assert "the state is that of update 5, and contains no state of the optimizer" in said


SAVER = """
import sys
from pathlib import Path
import torch, torch.distributed as dist
from tests.sharding import checkpoints as cases
rank, store, path = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
network, step = cases.make()
if path.exists():
    step.load(path)
while True:
    cases.train(network, step, step.number, step.number + 1)
    step.save(path, keep=2, extra=step.number)
"""


def newest(path: Path) -> int:
    """The number of updates in the checkpoint that one process loads; 0 without any."""
    if not path.exists() and not path.with_name(f"{path.name}.1").exists():
        return 0
    _, step = cases.make()
    extra = step.load(path)
    assert step.number == extra
    return int(extra)


def test_killed_at_any_moment_the_last_whole_checkpoint_loads(tmp_path: Path) -> None:
    kills = int(os.environ.get("STEPWELL_KILLS", "2"))
    chance, path, before = random.Random(1), tmp_path / "run", 0
    for kill in range(kills):
        command = [sys.executable, "-W", "ignore", "-c", SAVER]
        both = [
            subprocess.Popen(
                [*command, str(rank), str(tmp_path / f"store{kill}"), str(path)], stderr=subprocess.DEVNULL
            )
            for rank in range(2)
        ]
        limit = time.monotonic() + 60
        wait = before + 1
        while time.monotonic() < limit and not (path.exists() and number_in(path) > wait):
            assert [process.poll() for process in both] == [None, None]
            time.sleep(0.02)
        time.sleep(chance.uniform(0.0, 0.3))
        victim = chance.randrange(3)  # one rank, the other, or both: with one, the other waits, and is ended then
        for rank in ((0,), (1,), (0, 1))[victim]:
            os.kill(both[rank].pid, signal.SIGKILL)
        for process in both:
            process.kill()
            process.wait()
        now = newest(path)
        assert now > before
        before = now


def number_in(path: Path) -> int:
    try:
        return int(torch.load(path / "rank0.pt", weights_only=True)["content"]["extra"])
    except (OSError, RuntimeError, EOFError):  # it is being renamed
        return 0
