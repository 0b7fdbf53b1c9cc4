"""How large the page of a comparison with 1,000 trials is, and how long a browser takes to show it.

    python bench/compare_page.py [CHROMIUM]

The outcomes are made up, with the shape of real ones (21 points per curve). Prints seconds for writing the page, its
size, and the seconds until a headless Chromium has run its scripts.
"""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from stepwell import report
from stepwell.compare.contenders import contenders
from stepwell.compare.figures import sections
from stepwell.compare.outcome import Outcome
from stepwell.compare.plan import Plan, Trial, course, of_plan, startable
from stepwell.compare.result import Result
from stepwell.compare.scores import scores

NAMES = ["sgd", "adamw", "lion", "adam", "rmsprop", "lamb", "adafactor", "nadam"]
TRIALS, SEEDS, POINTS = 120, 5, 21


def outcome(trial: Trial) -> Outcome:
    """A run whose metric is best at 0.01, whatever the optimizer."""
    final = 1.0 - 0.1 * math.log10(trial.lr / 0.01) ** 2 - 0.001 * trial.seed
    share = [index / (POINTS - 1) for index in range(POINTS)]
    return Outcome(
        trial.optimizer, trial.phase, trial.index, trial.lr, trial.seed, "finished",
        steps=[round(1000 * s) for s in share], metric=[final * s for s in share],
        loss=[None, *(2.0 - s for s in share[1:])], seconds=[10 * s for s in share], final=final,
        state_bytes=80, parameters=10, id=trial.id, by="process 1",
    )  # fmt: skip


def made() -> Result:
    plan = Plan("t", contenders(NAMES, "cnn"), TRIALS, SEEDS, 1000)
    done: dict[str, Outcome] = {}
    while True:
        courses = [course(plan, one, done, "max") for one in plan.contenders]
        waiting = startable(plan, courses, done, ())
        if not waiting:
            break
        done.update((trial.id, outcome(trial)) for trial in waiting)
    outcomes = of_plan(courses, done)
    facts = {
        "name": "t", "summary": "made up", "family": "cnn", "metric": "accuracy", "direction": "max", "target": 0.9,
        "batch_size": 32, "about": {},
    }  # fmt: skip
    scored = tuple(scores(plan, courses, outcomes, "max", 0.9))
    return Result(plan, tuple(outcomes), scored, facts, {}, True, 1.0, Path("."), courses=tuple(courses))


def main() -> None:
    begun = time.perf_counter()
    result = made()
    print(f"{len(result.outcomes)} trials planned and scored in {time.perf_counter() - begun:.2f} s")
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        page = report.write(Path(folder) / "report.html", "A thousand trials", sections(result), lead="", foot="")
        print(f"page written in {time.perf_counter() - begun:.2f} s, {page.stat().st_size / 1e6:.2f} MB")
        browser = sys.argv[1] if len(sys.argv) > 1 else shutil.which("chromium") or shutil.which("google-chrome")
        if browser is None:
            print("no Chromium here: give its path")
            return
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", f"--user-data-dir={folder}/profile"]
        empty = Path(folder) / "empty.html"
        empty.write_text("<p>nothing</p>")
        seconds = []
        for file in (empty, page, empty, page):
            begun = time.perf_counter()
            subprocess.run([browser, *options, f"file://{file}"], capture_output=True, check=True, timeout=120)
            seconds.append(time.perf_counter() - begun)
        print(f"opened in {min(seconds[1::2]):.2f} s, an empty page in {min(seconds[::2]):.2f} s")


if __name__ == "__main__":
    main()
