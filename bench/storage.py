"""What does `stepwell compare --storage` add to a trial? Claims and outcomes of trials that are not trained.

    python bench/storage.py [--trials 1000]

A PostgreSQL server with its usual settings (every commit waits for the disk) is started on this machine, and stores the
trials of one process: claim, outcome, and the reads between them. The same on a journal file and in SQLite. For
comparison, the folder alone. An outcome has 40 evaluations. The last line is of 4 processes that share a quarter of the
trials and do nothing else, which no real comparison does. Nothing is trained: all of the time is what is added.
"processor" is the processor time of the process alone, without the server and without what other processes take.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from postgres import Server, binaries
from stepwell.compare.folder import Folder
from stepwell.compare.outcome import Outcome
from stepwell.compare.plan import Plan, Trial
from stepwell.compare.run import _opened

PLAN = Plan("digits", (), 8, 3, 100)
POINTS = 40  # evaluations of a trial


def outcome_of(trial: Trial) -> Outcome:
    values = [0.123456789 + 0.001 * point for point in range(POINTS)]
    return Outcome(
        "AdamW", "tune", trial.index, trial.lr, 0, "finished", steps=list(range(POINTS)), metric=values,
        loss=[None, *values[1:]], seconds=values, final=values[-1], id=trial.id, by="process 1",
    )  # fmt: skip


def store(folder: Folder, trials: int) -> list[float]:
    """Seconds of each trial that this process has stored."""
    seconds = []
    known = {outcome.id for outcome in folder.outcomes()}
    for index in range(trials):
        trial = Trial("AdamW", "tune", index, 0.001 * (index + 1), 0, {}, f"{index:020d}")
        began = time.perf_counter()
        if trial.id not in known and folder.claim(trial.id, trial):
            known = {outcome.id for outcome in folder.outcomes()}
            if trial.id in known:
                folder.give_back(trial.id)
            else:
                folder.append(outcome_of(trial))
                known = {outcome.id for outcome in folder.outcomes()}
                seconds.append(time.perf_counter() - began)
    return seconds


def show(name: str, seconds: list[float], processor: float | None = None) -> None:
    ms = [1e3 * one for one in seconds]
    late = ms[-100:]
    print(
        f"{name:32} {statistics.mean(ms):8.1f} {statistics.median(ms):8.1f} {sorted(ms)[int(0.99 * len(ms))]:8.1f} "
        f"{statistics.mean(late):12.1f} {'' if processor is None else f'{1e3 * processor / len(ms):12.1f}'}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--join", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.join:
        folder = _opened(Path(given.join[1]), PLAN, given.join[0], "max")
        seconds = store(folder, given.trials)
        folder.close()
        print(*seconds)
        return
    flags = Path("/proc/cpuinfo")
    has = [name for name in ("avx2", "avx512f") if flags.exists() and f" {name} " in flags.read_text()]
    print(f"{platform.machine()}, {' '.join(has)}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"load of the machine: {os.getloadavg()[0]:.1f}\n{given.trials} trials; ms for each trial")
    print(f"{'':32} {'mean':>8} {'median':>8} {'99 %':>8} {'last 100':>12} {'processor':>12}")
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        root.chmod(0o755)
        folder = Folder(root / "alone", PLAN)
        began = time.process_time()
        show("folder alone", store(folder, given.trials), time.process_time() - began)
        folder.close()
        urls = {"journal file": f"journal://{root}/journal.log", "SQLite": f"sqlite:///{root}/file.db"}
        server = None
        if binaries() is not None:
            (root / "server").mkdir()
            server = Server(root / "server")
            urls = {"PostgreSQL": server.url, **urls}
        try:
            for name, url in urls.items():
                folder = _opened(root / name, PLAN, url, "max")
                began = time.process_time()
                show(name, store(folder, given.trials), time.process_time() - began)
                folder.close()
            if server is not None:
                plan = [sys.executable, __file__, "--trials", str(given.trials // 4)]
                fresh = server.url.replace("/postgres", "/template1")
                began = time.perf_counter()
                four = [
                    subprocess.Popen(
                        [*plan, "--join", fresh, str(root / f"four {n}")], stdout=subprocess.PIPE, text=True
                    )
                    for n in range(4)
                ]
                told = [process.communicate()[0].split() for process in four]
                wall = time.perf_counter() - began
                show("PostgreSQL, 4 processes at a time", [float(one) for mine in told for one in mine])
                each = 4e3 * wall / given.trials
                print(f"  ({[len(mine) for mine in told]} trials, {each:.1f} ms of wall time each, with the start)")
        finally:
            if server is not None:
                server.stop()


if __name__ == "__main__":
    main()
