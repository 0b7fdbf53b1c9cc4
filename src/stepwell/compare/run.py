"""Runs a comparison: starts trials, records their outcomes, and stops on Ctrl-C."""

from __future__ import annotations

import hashlib
import json
import math
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepwell import __version__, arguments
from stepwell.compare.folder import Folder
from stepwell.compare.outcome import Outcome
from stepwell.compare.plan import Contender, Plan, rivals, startable
from stepwell.compare.progress import Progress, Silent
from stepwell.compare.scores import Score, scores, tuned
from stepwell.compare.workers import Job, StepsDone, Workers, available_cores, threads_per_worker
from stepwell.curves import Heights
from stepwell.errors import UsageError, printable, shown

MANY = 10_000  # trials, seeds or workers; more are a mistake
FURTHEST = 1e100  # between the lowest and the highest rate

if TYPE_CHECKING:
    from stepwell.tasks import Surface


@dataclass(frozen=True, repr=False)
class Result:
    """The result of a comparison, complete or partial. `print(result)` and notebooks show its table.

    Attributes:
        plan, outcomes, scores: the settings, the finished trials, and their scores.
        task: facts of the task: name, metric, direction, target, ...
        machine: facts of the machine and the versions.
        complete: whether every trial is done. seconds: wall time of this call, without earlier calls.
        folder: the folder of all files.
        surface: heights of a two-parameter task, for the plot of the path; None for other tasks.
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

    def __repr__(self) -> str:
        best = next((score for score in self.scores if score.median is not None), None)
        first = f"best {best.optimizer} at lr {best.best_lr:g}" if best and best.best_lr else "nothing finished"
        state, runs = "complete" if self.complete else "not complete", len(self.outcomes)
        return (
            f"Result({self.task['name']!r}, {len(self.plan.contenders)} optimizers, {runs} runs, {state}: "
            f"{first}; folder {str(self.folder)!r})"
        )

    def __str__(self) -> str:
        from stepwell.compare.figures import headline, score_table

        return f"{score_table(self).text()}\n{headline(self)}"

    def _repr_html_(self) -> str:
        from html import escape

        from stepwell.compare.figures import headline, score_table

        return f"{score_table(self).html()}<p><b>{escape(headline(self))}</b></p>"

    def to_json(self) -> dict[str, Any]:
        """The content of `results.json`: plain lists, dicts and finite numbers."""
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

    `ranges` and `options` override them by name. Raises UsageError for an unknown name (with the nearest known name),
    for a name given twice, for a range or option of an optimizer that is not compared, and for an empty range.
    """
    from stepwell.optimizers import find

    names = arguments.sequence("compare", "optimizers", names, "a list of names, as ['sgd', 'adamw']")
    if not names:
        raise UsageError("no optimizers to compare; give --optimizers adamw,lion")
    classes = [find(name) for name in names]
    found = [cls.__name__ for cls in classes]
    for name in found:
        if found.count(name) > 1:
            raise UsageError(f"optimizer '{name}' is given twice; name each optimizer once")
    given_ranges = _by_class("--lr-range", {} if ranges is None else ranges, found)
    given_options = _by_class("--option", {} if options is None else options, found)
    known = family if isinstance(family, str) and family in ("cnn", "transformer", "toy") else None
    chosen = []
    for cls, name in zip(classes, found, strict=True):
        mine = _checked_options(name, given_options.get(name, {}))
        inside = find(mine["base"]) if "base" in mine else cls  # what a wrapper is put around decides on its rates
        low, high = _checked_range(name, given_ranges[name]) if name in given_ranges else inside.facts.lr_range(known)
        usual = dict(inside.facts.compare_options)
        chosen.append(Contender(name, float(low), float(high), {**usual, **mine}, inside.facts.schedule))
    return tuple(chosen)


def _checked_range(name: str, given: Any) -> tuple[float, float]:
    span = arguments.sequence("compare", f"lr_ranges of {name}", given, "two numbers, (low, high)")
    if len(span) != 2 or not all(map(arguments.is_finite_number, span)):
        raise arguments.refusal("compare", f"lr_ranges of {name}", given, "two finite numbers, (low, high)")
    low, high = (float(arguments.plain_number(end) or 0.0) for end in span)
    if not 0 < low < high:
        raise UsageError(f"learning rates of {name} from {low:g} to {high:g}; it must be 0 < low < high")
    if high > FURTHEST * low:
        raise UsageError(f"learning rates of {name} from {low:g} to {high:g} are more than {FURTHEST:g} times apart")
    return low, high


def _checked_options(name: str, given: Any) -> dict[str, Any]:
    """The options as stored in `run.json`, by which a later call recognizes the run."""
    options = arguments.mapping("compare", f"options of {name}", given, "a dict, as {'momentum': 0.9}")
    for key, value in options.items():
        if not isinstance(key, str) or not key.isidentifier():
            raise arguments.refusal("compare", f"an option of {name}", key, "the name of an argument, as momentum")
        if key == "lr":
            raise UsageError(
                f"compare: options of {name} contain lr={shown(value)}, which is searched; give its range as lr_ranges"
            )
        try:
            json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
        except Exception:  # a tensor, nan, a lone surrogate, a list inside itself
            raise arguments.refusal(
                "compare", f"{key} of {name}", value, "a value that a file can store: finite numbers, str, lists, None"
            ) from None
    return options


def _by_class(flag: str, given: Mapping[str, Any], found: Sequence[str]) -> dict[str, Any]:
    from stepwell.optimizers import find

    settled = {}
    for name, value in arguments.mapping("compare", flag, given, "a dict from names of optimizers").items():
        cls = find(name).__name__
        if cls not in found:
            raise UsageError(f"{flag} names {cls}, which is not compared; compared: {', '.join(found)}")
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
    all
    of `steps` steps (default: the task's number of steps) with one schedule; optimizers that are defined without a
    decay (`Facts.schedule`) have their own schedule. `jobs` worker processes share the work (default: one per two
    cores). All results are stored in the folder `out` (default: `runs/<task>`); after an interruption, the same call
    resumes. Ctrl-C ends the call with the finished trials (`complete` is False).

    Raises UsageError for unknown names, settings out of range, a faulty task file, and a folder with another run.

    >>> result = compare("ravine", ["sgd", "lion"], trials=4, seeds=3, out="runs/ravine")  # doctest: +SKIP
    >>> result.scores[0].optimizer  # doctest: +SKIP
    'SGD'
    """
    trials = arguments.whole("compare", "trials", trials, least=1, most=MANY)
    seeds = arguments.whole("compare", "seeds", seeds, least=1, most=MANY)
    jobs = None if jobs is None else arguments.whole("compare", "jobs", jobs, least=1, most=MANY)
    steps = None if steps is None else arguments.whole("compare", "steps", steps, least=1)
    prune = arguments.flag("compare", "prune", prune)
    _check_device(device)
    _check_progress(progress)
    from stepwell.compare.training import check_takes
    from stepwell.tasks import TABLE, find, probe

    problem = find(task)
    if task in TABLE:  # a user's file was probed when it was loaded; here a missing extra shows
        probe(problem)
    task = str(task)
    path = Path(task.partition(":")[0])
    place = _folder_of(problem.name) if out is None else arguments.path("compare", "out", out)
    surface = _heights(problem.surface)  # before the training: a user's function may fail
    plan = Plan(
        task=task,
        contenders=contenders(optimizers, problem.family, lr_ranges, options),
        trials=trials,
        seeds=seeds,
        steps=steps or arguments.whole("compare", "steps of the task", problem.steps, least=1),
        prune=prune,
        device=device,
        task_digest=_digest(path) if task not in TABLE else "",
    )
    for contender in plan.contenders:
        check_takes(problem, contender)
    folder = Folder(place, plan)
    jobs = jobs or max(1, available_cores() // 2)
    began = time.monotonic()
    outcomes = _run(plan, folder, problem.metric.direction, jobs, progress or Silent())
    facts = {
        "name": problem.name,
        "summary": problem.summary,
        "family": problem.family,
        "metric": problem.metric.name,
        "direction": problem.metric.direction,
        "target": arguments.plain_number(problem.target),
        "batch_size": arguments.plain_number(problem.batch_size),
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
        surface=surface,
    )


def _run(plan: Plan, folder: Folder, direction: Any, jobs: int, progress: Progress) -> list[Outcome]:
    """Run the unfinished trials. Returns all outcomes in the order of the plan; fewer after Ctrl-C."""
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
                    if isinstance(news, StepsDone):
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


def _check_device(device: Any) -> None:
    if not isinstance(device, str) or device not in ("cpu", "cuda"):
        raise UsageError(f"device={shown(device)}; it must be 'cpu' or 'cuda'")
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise UsageError("device 'cuda' is not available: torch.cuda.is_available() is False; use --device cpu")


def _check_progress(progress: Any) -> None:
    if progress is None:
        return
    try:
        right = all(callable(getattr(progress, name, None)) for name in ("begin", "step", "ended", "end"))
    except Exception:  # a method of the user's own may raise anything
        right = False
    if not right:
        raise arguments.refusal(
            "compare", "progress", progress, "None or an object with the methods begin, step, ended and end (`Lines()`)"
        )


def _folder_of(name: str) -> Path:
    """The folder of a task's run: inside `runs`, for any name of the task."""
    inside = Path(name)
    if inside.is_absolute() or inside.drive or ".." in inside.parts or not inside.parts or "\\" in name:
        raise UsageError(
            f"compare: the task is called {shown(name)}, which is not a folder name inside runs; "
            "rename the task, or give the folder of the run: --out FOLDER"
        )
    return Path("runs") / inside


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise UsageError(f"cannot read {printable(str(path))[:200]}: {error.strerror or error}") from None


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
        z=[[float(f"{value:.5g}") if math.isfinite(value) else None for value in row] for row in z.tolist()],
        points=tuple(surface.minima),
        log=surface.log,
    )


def machine(jobs: int) -> dict[str, str]:
    """Facts of the machine: versions, processor, cores, workers. The user and the host are not named."""
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
