"""What a comparison costs beyond the training of its trials, and what a second worker brings.

    python bench/compare_overhead.py [--task digits] [--rounds 3] [--json FILE]

Three programs do the same trials, each in a process of its own, one after the other in every round, with one thread
each: the bare training (a loop over the same trials: model, optimizer, schedule, steps and evaluations, nothing else),
`stepwell compare --jobs 1` and `stepwell compare --jobs 2`. Start and imports are in all three. Prints wall seconds of
every round, and the median of the ratios within a round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import stepwell
from stepwell.compare.contenders import contenders

OPTIMIZERS = "sgd,adamw,lion"
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}


def bare(name: str, file: Path) -> None:
    """Train the trials in a file of outcomes, one after the other, as a user's loop would."""
    import torch

    from stepwell import tasks
    from stepwell.compare.outcome import Outcome
    from stepwell.compare.training import Training

    torch.set_num_threads(1)
    task = tasks.find(name)
    by_name = {one.name: one for one in contenders(OPTIMIZERS.split(","), task.family)}
    for line in file.read_text().splitlines():
        outcome = Outcome.from_json(line)
        training = Training(task, by_name[outcome.optimizer], outcome.lr, outcome.seed, "cpu", task.steps)
        stream = task.stream(outcome.seed)
        training.measure()
        stops = set(outcome.steps)
        for step in range(1, outcome.steps[-1] + 1):
            loss = training.update(next(stream))
            if step in stops:
                loss.item()
                training.measure()


def timed(arguments: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments], env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    return time.perf_counter() - begun


def compared(task: str, out: Path, jobs: int, trials: int) -> float:
    return timed(
        ["-m", "stepwell.cli", "compare", task, "--optimizers", OPTIMIZERS, "--trials", str(trials), "--seeds", "3",
         "--jobs", str(jobs), "--threads", "1", "--out", str(out)]
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="digits")
    parser.add_argument("--trials", type=int, default=8, help="learning rates of each optimizer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", help="also write the figures to this file")
    parser.add_argument("--bare", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        bare(options.task, Path(options.bare))
        return
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds):
            one, two = Path(folder) / f"one-{number}", Path(folder) / f"two-{number}"
            seconds = {"jobs 1": compared(options.task, one, 1, options.trials)}
            lines = one / "trials.jsonl"
            seconds["bare"] = timed([__file__, "--task", options.task, "--bare", str(lines)])
            seconds["jobs 2"] = compared(options.task, two, 2, options.trials)
            rounds.append(seconds)
            print(
                f"{len(lines.read_text().splitlines())} trials:",
                "  ".join(f"{k} {v:.1f} s" for k, v in seconds.items()),
            )
    overhead = statistics.median(one["jobs 1"] / one["bare"] - 1 for one in rounds)
    gain = statistics.median(one["jobs 1"] / one["jobs 2"] for one in rounds)
    print(f"--jobs 1 over the bare training: {100 * overhead:+.1f} % of wall time")
    print(f"--jobs 2: {gain:.2f} times the throughput of --jobs 1")
    if options.json:
        found = {
            "task": options.task,
            "stepwell": stepwell.__version__,
            "rounds": rounds,
            "overhead": overhead,
            "gain": gain,
        }
        Path(options.json).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
