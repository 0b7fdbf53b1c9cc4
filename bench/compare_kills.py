"""Kills a comparison at random moments and compares its table with that of a run in one piece.

    python bench/compare_kills.py [--kills 100] [--seed 0]

Half of the kills (SIGKILL) hit the whole command, the others one of its workers. After every kill of the command the
same command starts again on the same folder; when a comparison is complete, its table and trials are checked and the
next one starts in a new folder. Ends with status 1 at the first difference, and keeps the folder.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

SETTINGS = ["ravine", "--optimizers", "sgd,adamw,lion", "--trials", "6", "--seeds", "3", "--jobs", "2"]
PLANNED = 3 * (6 + 3)


def started(out: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "stepwell.cli", "compare", *SETTINGS, "--out", str(out)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


def table(out: Path) -> list[dict[str, Any]]:
    """The scores, without what depends on the clock."""
    scores = json.loads((out / "results.json").read_text())["scores"]
    return [{key: value for key, value in one.items() if key not in ("seconds_to_target", "step_ms")} for one in scores]


def trials(out: Path) -> list[dict[str, Any]]:
    """The finished lines; a line that a kill cut short does not count, as for the next command."""
    file = out / "trials.jsonl"
    found = []
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def workers(process: subprocess.Popen[bytes]) -> list[int]:
    """The children of a command that train; fewer or none before they have started."""
    try:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        return [int(one) for one in children if b"spawn_main" in Path(f"/proc/{one}/cmdline").read_bytes()]
    except OSError:
        return []


def problems(out: Path, right: list[dict[str, Any]]) -> list[str]:
    said = []
    if table(out) != right:
        said.append("another table")
    done = [one for one in trials(out) if not one["lost"]]
    twice = [key for key, count in Counter(one["id"] for one in done).items() if count > 1]
    if twice:
        said.append(f"run twice: {twice}")
    if len({one["id"] for one in done}) != PLANNED:
        said.append(f"{len(done)} trials of {PLANNED}")
    return said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    folder = Path(tempfile.mkdtemp(prefix="stepwell-kills-"))
    begun = time.monotonic()
    if started(folder / "straight").wait() != 0:
        print("the run in one piece failed")
        return 1
    whole = time.monotonic() - begun
    right = table(folder / "straight")
    kills, runs, hit = 0, 0, Counter[str]()
    while kills < options.kills:
        out = folder / f"run-{runs}"
        runs += 1
        while True:
            process = started(out)
            if kills < options.kills:
                time.sleep(chance.uniform(0.0, 1.1 * whole))
                if process.poll() is None:
                    kills += 1
                    alive = workers(process) if chance.random() < 0.5 else []
                    hit["a worker" if alive else "the command"] += 1
                    if alive:
                        os.kill(chance.choice(alive), signal.SIGKILL)
                    else:
                        os.killpg(process.pid, signal.SIGKILL)
            status = process.wait()
            if status == 0:
                break
            if status != -signal.SIGKILL:
                print(f"{out}: the command ended with status {status}")
                return 1
        wrong = problems(out, right)
        if wrong:
            print(f"{out}: {'; '.join(wrong)}")
            return 1
    print(f"{kills} kills ({', '.join(f'{count} of {what}' for what, count in hit.items())}), {runs} comparisons: "
          "every table is that of the run in one piece, no trial lost, none run twice")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
