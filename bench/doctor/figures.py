"""Runs everything without a watcher and prints whether healthy runs learn and faulty ones are harmed.

    python -m bench.doctor.figures [--folder tasks|unseen] [--only WORD] [--quiet]

A healthy run has learned when its validation metric fell by at least 15 % of the value before training and ends within
5 % of its best. A faulty run is harmed when a figure is not finite, or when the validation metric or the training loss
is worse than that of the worst healthy seed by a tenth of what the healthy runs gained or by 30 %, or when the fault is
wrong by construction (`causes.py`), or, for overfitting, when the metric ends 10 % above its own best.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings

import torch
from bench.doctor.causes import BY_CONSTRUCTION, OTHER_LOSS
from bench.doctor.runs import NullDoctor, Run, all_runs


def measured(run: Run) -> tuple[dict[str, float], NullDoctor, float]:
    """The figures of a run, what the watcher was told, and the seconds."""
    doctor, start = NullDoctor(), time.perf_counter()
    try:
        figures = run.train(lambda model, optimizer: doctor, seed=run.seed)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        print(f"RAISED in {run.task} {run.fault}: {error!r}"[:300])
        figures = dict.fromkeys(("first", "last", "val_before", "val"), float("nan"))
    return figures, doctor, time.perf_counter() - start


def learned(figures: dict[str, float], vals: list[float]) -> str:
    """Whether the validation metric of a healthy run fell clearly and stayed low."""
    if not figures["val_before"] - figures["val"] > 0.15 * abs(figures["val_before"]):
        return "NOT LEARNED"
    return "OVERFITS" if vals and figures["val"] > min(vals) + 0.05 * abs(min(vals)) else "learned"


def worse(value: float, key: str, start: str, healthy: list[dict[str, float]]) -> bool:
    """Whether a figure is clearly above that of the worst healthy seed: by a tenth of the gain, or by a third."""
    worst = max(figures[key] for figures in healthy)
    gain = max(abs(figures[start] - figures[key]) for figures in healthy)
    return value > worst + 0.1 * gain or (worst > 0 and value > 1.3 * worst)


def harm(run: Run, figures: dict[str, float], healthy: list[dict[str, float]], vals: list[float]) -> str:
    """Which figure shows the harm, or "no"."""
    if run.fault == "overfit":
        return "val" if figures["val"] > min(vals) * 1.1 else "no"
    if not all(math.isfinite(figures[key]) for key in ("last", "val")):
        return "not finite"
    if worse(figures["val"], "val", "val_before", healthy):
        return "val"
    if run.fault not in OTHER_LOSS and worse(figures["last"], "last", "first", healthy):
        return "loss"
    return "by construction" if run.fault in BY_CONSTRUCTION else "no"


def main() -> None:
    """Prints the table, then the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", choices=("tasks", "unseen", "both"), default="both")
    parser.add_argument("--only", default="", help="tasks whose name contains this")
    parser.add_argument("--bad", action="store_true", help="print only what did not learn, is not harmed or is slow")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    torch.nn.Linear(2, 2)(torch.zeros(1, 2)).sum().backward()  # what torch loads at its first use costs 3 seconds
    torch.optim.AdamW([torch.zeros(1, requires_grad=True)]).step()
    folders = ("tasks", "unseen") if options.folder == "both" else (options.folder,)
    for folder in folders:
        print(f"\n## {folder}\n")
        names = ("first loss", "last loss", "healthy last", "val before", "val", "healthy val", "seconds")
        print(f"{'task':<32}{'fault':<20}{'seed':>4} " + "".join(f"{name:>13}" for name in names) + "  harm")
        twins: dict[tuple[str, int], dict[str, float]] = {}
        counts = {"healthy": 0, "healthy that did not learn": 0, "faulty": 0, "faulty without harm": 0}
        total = slowest = 0.0
        for run in all_runs(folder):
            if options.only not in run.task:
                continue
            figures, doctor, seconds = measured(run)
            total, slowest = total + seconds, max(slowest, seconds)
            if run.fault is None:
                twins[run.task, run.seed] = figures
                word = learned(figures, doctor.vals)
                counts["healthy"] += 1
                counts["healthy that did not learn"] += word != "learned"
            else:
                healthy = [found for (task, _), found in twins.items() if task == run.task]
                word = harm(run, figures, healthy, doctor.vals)
                counts["faulty"] += 1
                counts["faulty without harm"] += word == "no"
            twin = twins[run.task, run.seed]
            numbers = [figures["first"], figures["last"], twin["last"], figures["val_before"], figures["val"]]
            numbers += [twin["val"], seconds]
            if not options.bad or word in ("NOT LEARNED", "OVERFITS", "no") or seconds > 3:
                row = f"{run.task:<32}{run.fault or '-':<20}{run.seed:>4} "
                print(row + "".join(f"{number:>13.4g}" for number in numbers) + f"  {word}", flush=True)
        print("\n" + ", ".join(f"{name}: {count}" for name, count in counts.items()))
        print(f"seconds: {total:.0f}, slowest run: {slowest:.1f}")


if __name__ == "__main__":
    main()
