"""docs/distributed.md and the examples of several processes: every block runs, and the table is the printed one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import in_processes
from tests.sharding import page, support

pytest.importorskip("torch.distributed")
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("page"), pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]


def test_every_block_of_the_page_runs_in_two_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(page.blocks()) >= 6
    monkeypatch.setenv("STEPWELL_TEST_FOLDER", str(tmp_path))
    found = in_processes({"page": page.run}, 2)
    for rank in range(2):
        assert not isinstance(found[rank]["page"], str), found[rank]["page"]
    assert found[0]["page"] == found[1]["page"]
    assert found[0]["page"]["epoch"] == 1


def test_the_table_of_optimizers_is_the_printed_one() -> None:
    assert support.table() in page.PAGE.read_text(encoding="utf-8"), "run python -m tests.sharding.support"


@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_an_example_trains_stops_and_resumes(name: str, tmp_path: Path) -> None:
    def run(out: str, epochs: int) -> list[str]:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        command += [f"examples/{name}.py", "--out", str(tmp_path / out), "--epochs", str(epochs)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr[-2000:]
        return re.findall(r"^epoch .*", done.stdout, re.MULTILINE)

    straight = run("straight", 3)
    assert len(straight) == 3
    assert [*run("resumed", 2), *run("resumed", 3)] == straight
    assert float(straight[-1].split()[-1]) > 0.8
