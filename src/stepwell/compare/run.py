"""A comparison from the first trial to the last: start what may start, write down what ends, stop when asked."""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepwell import __version__
from stepwell.compare.folder import Folder
from stepwell.compare.outcome import Outcome
from stepwell.compare.plan import Contender, Plan, rivals, startable
from stepwell.compare.progress import Progress, Silent
from stepwell.compare.scores import Score, scores, tuned
from stepwell.compare.workers import Job, Step, Workers, available_cores, threads_per_worker
from stepwell.curves import Heights
from stepwell.errors import UsageError

if TYPE_CHECKING:
    from stepwell.tasks import Surface


@dataclass(frozen=True)
class Result:
    """A comparison, whole or as far as it came.

    Attributes:
        plan, outcomes, scores: what was asked, what was run, how it is scored.
        task: facts of the task: name, metric, direction, target, ...
        machine: facts of the machine and the versions.
        complete: whether every trial is done. seconds: wall time of this call; earlier calls are not in it.
        folder: where everything is written.
        surface: heights of a two-parameter task, for the picture of the path; None for others.
    """

    plan: Plan
    outcomes: tuple[Outcome, ...]
    scores: tuple[Score, ...]
    task: Mapping[str, Any]
    machine: Mapping[str, str]
    complete: bool
    seconds: float
    folder: Path
    surface: Heights | None = None

    def to_json(self) -> dict[str, Any]:
        """What `results.json` holds: plain lists, dicts and finite numbers."""
        return {
            "stepwell": __version__,
            "complete": self.complete,
            "seconds": round(self.seconds, 3),
            "task": dict(self.task),
            "plan": asdict(self.plan),
            "scores": [asdict(score) for score in self.scores],
            "trials": [asdict(outcome) for outcome in self.outcomes],
            "machine": dict(self.machine),
        }


def contenders(
    names: Sequence[str],
    family: str,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[Contender, ...]:
    """The optimizers to compare, each with the learning rates published for `family` and its usual options.

    `ranges` and `options` overrule them by name. Raises UsageError for an unknown name (with the nearest), a
    name given twice or overruled but not compared, or an empty range.
    """
    from stepwell.optimizers import find

    if not names:
        raise UsageError("no optimizers to compare: give --optimizers adamw,lion")
    classes = [find(name) for name in names]
    found = [cls.__name__ for cls in classes]
    for name in found:
        if found.count(name) > 1:
            raise UsageError(f"optimizer '{name}' is given twice")
    given_ranges = _by_class("--lr-range", ranges or {}, found)
    given_options = _by_class("--option", options or {}, found)
    known = family if family in ("cnn", "transformer", "toy") else None
    chosen = []
    for cls, name in zip(classes, found, strict=True):
        mine = given_options.get(name, {})
        inside = find(mine["base"]) if "base" in mine else cls  # what a wrapper is put around decides on its rates
        low, high = given_ranges.get(name) or inside.facts.lr_range(known)
        if not 0 < low < high < float("inf"):
            raise UsageError(f"learning rates of {name} from {low:g} to {high:g}: 0 < low < high is needed")
        usual = dict(inside.facts.compare_options)
        chosen.append(Contender(name, float(low), float(high), {**usual, **mine}, inside.facts.schedule))
    return tuple(chosen)


def _by_class(flag: str, given: Mapping[str, Any], found: Sequence[str]) -> dict[str, Any]:
    from stepwell.optimizers import find

    settled = {}
    for name, value in given.items():
        cls = find(name).__name__
        if cls not in found:
            raise UsageError(f"{flag} names {cls}, which is not compared here; compared: {', '.join(found)}")
        settled[cls] = value
    return settled


def compare(
    task: str,
    optimizers: Sequence[str] = ("sgd", "adamw", "lion"),
    *,
    trials: int = 8,
    seeds: int = 3,
    steps: int | None = None,
    jobs: int | None = None,
    out: str | Path | None = None,
    lr_ranges: Mapping[str, tuple[float, float]] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    prune: bool = True,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Result:
    """Compare optimizers on a task, each with the same tuning budget.

    Every optimizer gets `trials` learning rates from its own published range, then `seeds` runs at the best one,
    all of `steps` steps (default: the task's budget) under one schedule; those that are defined without a decay
    (`Facts.schedule`) run their own. `jobs` worker processes share the work (default: one per two cores). Everything
    is kept in the folder `out` (default: `runs/<task>`); the same call resumes what an interruption left. Ctrl-C ends
    the call early with what is done (`complete` is False).

    Raises UsageError for anything a user can mend: unknown names, settings out of range, a faulty task file, a
    folder that holds another run.

    >>> result = compare("ravine", ["sgd", "lion"], trials=4, seeds=3, out="runs/ravine")
    >>> result.scores[0].optimizer
    'SGD'
    """
    for label, number in (("trials", trials), ("seeds", seeds), ("steps", steps), ("jobs", jobs)):
        if number is not None and number < 1:
            raise UsageError(f"{label}={number}: at least 1 is needed")
    from stepwell.compare.trial import check_takes
    from stepwell.tasks import TABLE, find, probe

    problem = find(task)
    if task in TABLE:  # a user's file was probed when it was loaded; here a missing extra shows
        probe(problem)
    _check_device(device)
    path = Path(task.partition(":")[0])
    plan = Plan(
        task=task,
        contenders=contenders(optimizers, problem.family, lr_ranges, options),
        trials=trials,
        seeds=seeds,
        steps=steps or problem.steps,
        prune=prune,
        device=device,
        task_digest=hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else "",
    )
    for contender in plan.contenders:
        check_takes(problem, contender)
    folder = Folder(Path(out) if out is not None else Path("runs") / problem.name, plan)
    jobs = jobs or max(1, available_cores() // 2)
    began = time.monotonic()
    outcomes = _run(plan, folder, problem.metric.direction, jobs, progress or Silent())
    facts = {
        "name": problem.name,
        "summary": problem.summary,
        "family": problem.family,
        "metric": problem.metric.name,
        "direction": problem.metric.direction,
        "target": problem.target,
        "batch_size": problem.batch_size,
        "about": dict(problem.about),
    }
    return Result(
        plan=plan,
        outcomes=tuple(outcomes),
        scores=tuple(scores(plan, outcomes, problem.metric.direction, problem.target)),
        task=facts,
        machine=machine(jobs),
        complete=_complete(plan, outcomes, problem.metric.direction),
        seconds=time.monotonic() - began,
        folder=folder.path,
        surface=_heights(problem.surface),
    )


def _run(plan: Plan, folder: Folder, direction: Any, jobs: int, progress: Progress) -> list[Outcome]:
    """Run what is not done. Returns all outcomes, in the order of the plan; fewer after Ctrl-C."""
    done = {outcome.key: outcome for outcome in folder.outcomes()}
    by_name = {contender.name: contender for contender in plan.contenders}
    progress.begin(plan, list(done.values()))
    try:
        with Workers(jobs, threads_per_worker(jobs)) as workers:
            while True:
                best = tuned(plan, list(done.values()), direction)
                waiting = startable(plan, best, done, {trial.key for trial in workers.running})
                for trial in waiting[: workers.free]:
                    against = [done[key] for key in rivals(trial, done) or []] if plan.prune else []
                    judged = against if plan.prune and trial.phase == "tune" else None
                    workers.start(Job(trial, plan.task, by_name[trial.optimizer], plan.steps, judged, plan.device))
                if not workers.running:
                    break
                for news in workers.news():
                    if isinstance(news, Step):
                        progress.step(news.trial, news.step)
                    else:
                        folder.append(news)
                        done[news.key] = news
                        progress.ended(news)
    except KeyboardInterrupt:
        pass  # what is done is on disk and is shown; the caller sees that the result is not complete
    finally:
        progress.end()
    order = {(c.name, phase): (i, p) for i, c in enumerate(plan.contenders) for p, phase in enumerate(("tune", "seed"))}
    return sorted(done.values(), key=lambda o: (*order[o.optimizer, o.phase], o.index))


def _complete(plan: Plan, outcomes: Sequence[Outcome], direction: Any) -> bool:
    best = tuned(plan, outcomes, direction)
    done = {outcome.key for outcome in outcomes}
    return len(best) == len(plan.contenders) and not startable(plan, best, done, ())


def _check_device(device: str) -> None:
    if device not in ("cpu", "cuda"):
        raise UsageError(f"device '{device}' is neither 'cpu' nor 'cuda'")
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise UsageError("device 'cuda' is not there: torch.cuda.is_available() is False; use --device cpu")


def _heights(surface: Surface | None, points: int = 81) -> Heights | None:
    """The surface of a two-parameter task on a grid, as plain numbers."""
    if surface is None:
        return None
    import torch

    (left, right), (bottom, top) = surface.x, surface.y
    x, y = torch.linspace(left, right, points), torch.linspace(bottom, top, points)
    z = surface.height(x[None, :], y[:, None])
    return Heights(
        x=[round(value, 5) for value in x.tolist()],
        y=[round(value, 5) for value in y.tolist()],
        z=[[float(f"{value:.5g}") for value in row] for row in z.tolist()],
        points=tuple(surface.minima),
        log=surface.log,
    )


def machine(jobs: int) -> dict[str, str]:
    """Where this runs: versions, processor, cores, workers. Nothing that names the user or the host."""
    import numpy
    import torch

    facts = {
        "stepwell": __version__,
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "Python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": str(available_cores()),
        "workers": f"{jobs}, {threads_per_worker(jobs)} torch thread(s) each",
    }
    if torch.cuda.is_available():
        facts["GPU"] = torch.cuda.get_device_name()
    return facts


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
