"""How often the doctor names the right cause first, and how often it alarms without one.

    python -m bench.doctor.accuracy [--folder tasks|unseen] [--only WORD] [--jobs 2] [--json FILE] [--show]

Prints the table of docs/doctor-accuracy.md: per cause the runs, those whose first finding is right, those without any
finding, and what was said instead.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from bench.doctor.causes import CAUSES

CHECK_OF = {
    "stale-gradients": "R01", "gradients-cleared": "R27", "parameter-never-updated": "R02", "frozen": "R28",
    "graph-cut": "R29", "detached-loss": "R30", "not-in-optimizer": "R03", "optimizer-remade": "R31",
    "schedule-not-stepped": "R04", "schedule-too-fast": "R32", "schedule-order": "R33", "lr-too-high": "R08",
    "lr-too-low": "R09", "no-warmup": "R11", "momentum-too-high": "R41", "accumulation-not-divided": "R06",
    "exploding-gradients": "R21", "vanishing-gradients": "R22", "bad-initialisation": "R45",
    "bad-values-in-data": "R13", "nan-from-loss": "R43", "fp16-overflow": "R44", "lost-updates": "R15",
    "clipping-always": "R23", "dead-units": "R24", "eval-mode-in-training": "R05", "train-mode-in-evaluation": "R34",
    "labels-constant": "R46", "labels-unrelated": "R47", "target-leak": "R42", "unscaled-inputs": "R19",
    "no-shuffling": "R20", "overfitting": "R26", "batch-too-small": "R18", "weight-decay-too-strong": "R48",
    "betas-swapped": "R40", "double-softmax": "R35", "nll-without-log-softmax": "R36", "bce-without-sigmoid": "R37",
    "mse-on-logits": "R38", "broadcast-shapes": "R39",
}  # fmt: skip


def run(job: tuple[str, int]) -> dict[str, Any]:
    """One run under a doctor: its task, fault, and what was found."""
    import torch
    from bench.doctor.runs import all_runs, attempt

    from stepwell import Doctor

    torch.set_num_threads(1)
    folder, number = job
    one = all_runs(folder)[number]
    doctors: list[Any] = []

    def watch(model: Any, optimizer: Any) -> Any:
        doctors.append(Doctor(model, optimizer, live=False))
        return doctors[-1]

    begun = time.perf_counter()
    error = attempt(one, watch)
    for doctor in doctors:
        doctor.close()
    found = [
        {"code": each.code, "name": each.check.name, "step": getattr(each.place, "step", None), "seen": each.seen,
         "severity": each.severity}
        for doctor in doctors for each in doctor.findings
    ]  # fmt: skip
    return {"task": one.task, "fault": one.fault, "cause": one.cause, "seed": one.seed, "found": found,
            "error": error, "seconds": round(time.perf_counter() - begun, 2)}  # fmt: skip


def table(rows: list[dict[str, Any]], show: bool) -> str:
    faulty = [row for row in rows if row["fault"]]
    healthy = [row for row in rows if not row["fault"]]
    per: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in faulty:
        per[row["cause"]].append(row)
    lines = ["| cause | check | runs | named first | nothing said | said instead |", "|---|---|---|---|---|---|"]
    right = 0
    for cause in CAUSES:
        if cause not in per:
            continue
        good = [row for row in per[cause] if _first(row) == CHECK_OF[cause]]
        right += len(good)
        silent = sum(_first(row) is None for row in per[cause])
        others = Counter(_first(row) for row in per[cause] if _first(row) not in (None, CHECK_OF[cause]))
        said = ", ".join(f"{code} {count}" for code, count in others.most_common())
        lines.append(f"| {cause} | {CHECK_OF[cause]} | {len(per[cause])} | {len(good)} | {silent} | {said} |")
    alarms = [row for row in healthy if any(one["severity"] != "note" for one in row["found"])]
    lines += [
        "",
        f"First finding right: {right} of {len(faulty)} faulty runs ({100 * right / max(len(faulty), 1):.1f} %).",
    ]
    lines.append(f"Healthy runs with a finding of severity warning or above: {len(alarms)} of {len(healthy)}.")
    if show:
        for row in (*alarms, *(row for row in faulty if _first(row) != CHECK_OF[row["cause"]])):
            said = "; ".join(f"{one['code']} at {one['step']}: {one['seen']}" for one in row["found"][:2])
            lines.append(f"{row['task']} {row['fault'] or 'healthy'} {row['seed']}: {said or 'nothing'} {row['error']}")
    return "\n".join(lines)


def _first(row: dict[str, Any]) -> str | None:
    return row["found"][0]["code"] if row["found"] else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", default="tasks", choices=("tasks", "unseen"))
    parser.add_argument("--only", default="", help="a word in the name of the task, or a fault, or 'healthy'")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", help="also write one line for each run to this file")
    parser.add_argument("--show", action="store_true", help="also list the runs that are not right")
    given = parser.parse_args()
    from bench.doctor.runs import all_runs

    jobs = [
        (given.folder, number) for number, one in enumerate(all_runs(given.folder))
        if given.only in one.task or given.only == (one.fault or "healthy")
    ]  # fmt: skip
    rows = []
    with ProcessPoolExecutor(given.jobs, mp_context=get_context("spawn")) as pool:
        for row in pool.map(run, jobs):
            rows.append(row)
            if given.json:
                with open(given.json, "a") as file:
                    print(json.dumps(row), file=file)
            print(f"\r{len(rows)} of {len(jobs)}", end="", file=sys.stderr)
    print(file=sys.stderr)
    print(table(rows, given.show))


if __name__ == "__main__":
    main()
