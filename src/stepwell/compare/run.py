"""Runs a comparison: starts trials, records their outcomes, and stops on Ctrl-C."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from stepwell import arguments
from stepwell.compare.ahead import available_cores, threads_per_worker
from stepwell.compare.book import Book
from stepwell.compare.contenders import contenders
from stepwell.compare.facts import digest_of, folder_of, heights, machine
from stepwell.compare.folder import Folder
from stepwell.compare.function import Function, Run
from stepwell.compare.outcome import Outcome
from stepwell.compare.plan import Course, Plan, Trial, course, of_plan, startable
from stepwell.compare.problem import problem_of
from stepwell.compare.progress import Progress, Silent
from stepwell.compare.result import Result
from stepwell.compare.scores import scores
from stepwell.compare.script import Script
from stepwell.compare.script import checked as check_command
from stepwell.compare.storage import KINDS, hidden
from stepwell.compare.worker import Job
from stepwell.compare.workers import Here, StepsDone, Workers
from stepwell.errors import UsageError, shown
from stepwell.tasks import Task

MANY = 10_000  # trials, seeds or workers; more are a mistake
LOOK = 0.5  # seconds after which the trials of other processes are looked for


def compare(
    task: str | Callable[[Run], float],
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
    tune: Sequence[str] = ("lr",),
    widen: bool = True,
    threads: int | None = None,
    retry: bool = False,
    direction: str | None = None,
    metric: str = "",
    metric_from_json: str | None = None,
    target: float | None = None,
    storage: str | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> Result:
    """Compare optimizers on a task, each with the same tuning budget.

    Every optimizer gets `trials` learning rates, which begin in its own published range and follow the best one, beyond
    the range where need be; then `seeds` runs at the best one, all of `steps` steps (default: the task's number of
    steps) with one schedule; optimizers that are defined without a decay (`Facts.schedule`) have their own schedule.
    All results are stored in the folder `out` (default: `runs/<task>`). After an interruption, the same call resumes,
    and calls with more optimizers, trials or seeds reuse what is there. Two calls on one folder share its trials.
    Ctrl-C ends the call with the finished trials (`complete` is False).

    Args:
        task: the name of a task, or `my_task.py:task`; or a command with places, `"python train.py --lr {lr} --seed
            {seed}"`; or a function that takes a `Run`, trains with `run.optimizer(model)` and returns the metric. The
            trials of a function run in this process, one after the other.
        optimizers: names, with settings where one optimizer is compared with several: `"adamw[betas=(0.9, 0.95)]"`.
        trials: values to try of each hyperparameter in `tune`. seeds: final runs, one per seed.
        lr_ranges, options: by optimizer: the range of the first rates, and arguments.
        prune: stop hopeless trials from the middle of a run on.
        tune: what to tune, in this order whatever the order here: `"lr"` (always), `"betas"` (or momentum),
            `"decay"`, `"warmup"`. An optimizer without one of them gets the same number of further rates.
        widen: whether a range widens by itself where its lowest or highest value is the best.
        jobs: worker processes (default: one per two cores). threads: of each (default: OMP_NUM_THREADS, or the cores
            divided by `jobs`).
        retry: run the trials again that ended in an exception.
        direction: of the metric of a command or function: `"max"` if higher is better. metric: its name, and the key in
            the JSON file. metric_from_json: the file that the command writes; without it the metric is the last number
            of the last line of the output. target: the value that counts as solved. A task has its own.
        storage: URL of an Optuna storage, by which any number of calls on any number of machines share one comparison:
            `"postgresql://user@host/database"`, `"sqlite:///file.db"`, `"journal:///shared/file.log"`.
        command: what the report says about how it was made.

    Raises UsageError for unknown names, settings out of range, a faulty task file, and a folder of another task.

    >>> result = compare("ravine", ["sgd", "lion"], trials=4, seeds=3, out="runs/ravine")  # doctest: +SKIP
    >>> result.scores[0].optimizer  # doctest: +SKIP
    'SGD'
    """
    trials = arguments.whole("compare", "trials", trials, least=1, most=MANY)
    seeds = arguments.whole("compare", "seeds", seeds, least=1, most=MANY)
    jobs = None if jobs is None else arguments.whole("compare", "jobs", jobs, least=1, most=MANY)
    steps = None if steps is None else arguments.whole("compare", "steps", steps, least=1)
    prune = arguments.flag("compare", "prune", prune)
    widen, retry = arguments.flag("compare", "widen", widen), arguments.flag("compare", "retry", retry)
    threads = None if threads is None else arguments.whole("compare", "threads", threads, least=1, most=MANY)
    if storage is not None:
        storage = arguments.text("compare", "storage", storage, f"a URL: {KINDS}")
        command = command.replace(storage, hidden(storage))
    _check_device(device)
    _check_progress(progress)
    problem, name = problem_of(task, direction, metric, metric_from_json, target, steps)
    place = folder_of(problem.name) if out is None else arguments.path("compare", "out", out)
    surface = heights(problem.surface)  # before the training: a user's function may fail
    plan = Plan(
        task=name,
        contenders=contenders(optimizers, problem.family, lr_ranges, options, tune),
        trials=trials,
        seeds=seeds,
        steps=steps or arguments.whole("compare", "steps of the task", problem.steps, least=1),
        prune=prune and isinstance(problem, Task),
        device=device,
        task_digest=digest_of(problem, name),
        widen=widen,
    )
    jobs = 1 if isinstance(problem, Function) else jobs or max(1, available_cores() // 2)
    if isinstance(problem, Task):
        from stepwell.compare.training import check_takes

        for contender in plan.contenders:
            check_takes(problem, contender)
    elif isinstance(problem, Script):
        check_command(problem, plan.contenders, seeds, jobs, plan.contenders[0].tune)
        problem = replace(problem, output=str(place / "output"))
    folder = _opened(place, plan, storage, problem.metric.direction)
    threads = threads_per_worker(jobs) if threads is None else threads
    began = time.monotonic()
    try:
        crew = Here(problem) if isinstance(problem, Function) else Workers(jobs, threads)
        given = problem if isinstance(problem, Script) else name
        courses, done = _run(plan, folder, problem.metric.direction, crew, given, progress or Silent(), retry)
    finally:
        folder.close()
    outcomes = of_plan(courses, done)
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
        scores=tuple(scores(plan, courses, outcomes, problem.metric.direction, problem.target)),
        task=facts,
        machine=machine(jobs, threads),
        complete=all(one.tuned for one in courses) and not startable(plan, courses, done, ()),
        seconds=time.monotonic() - began,
        folder=folder.path,
        surface=surface,
        courses=tuple(courses),
        command=command,
    )


def _opened(place: Path, plan: Plan, storage: str | None, direction: str) -> Folder:
    if storage is None:
        return Folder(place, plan)
    from stepwell.compare.shared import Shared

    return Shared(place, plan, storage, direction)


def _run(
    plan: Plan,
    folder: Folder,
    direction: Any,
    crew: Workers | Here,
    task: str | Script,
    progress: Progress,
    retry: bool,
) -> tuple[list[Course], dict[str, Outcome]]:
    """Run the trials that nobody has run. Returns the trials of each optimizer and all outcomes by id; fewer after
    Ctrl-C."""
    book = Book(folder.outcomes(), retry)

    def look() -> list[Course]:
        book.read(folder.outcomes())
        return [course(plan, contender, book.done, direction) for contender in plan.contenders]

    courses = look()
    progress.begin(plan, of_plan(courses, book.done))
    told = set(book.done)
    try:
        with crew as workers:
            while True:
                running = {trial.id for trial in workers.running}
                waiting = startable(plan, courses, book.done, running)
                others = _start(plan, folder, book, workers, courses, waiting, task)
                if not workers.running and not waiting:
                    break
                if workers.running:
                    _await(workers, folder, progress, LOOK if others else math.inf)
                else:  # other processes run all that is left
                    time.sleep(LOOK)
                courses = look()
                for outcome in of_plan(courses, book.done):
                    if outcome.id not in told:
                        told.add(outcome.id)
                        progress.ended(outcome)
    except KeyboardInterrupt:
        pass  # what is done is on disk and is shown; the caller sees that the result is not complete
    finally:
        progress.end()
    return courses, book.done


def _await(workers: Workers | Here, folder: Folder, progress: Progress, seconds: float) -> None:
    """Wait until a trial ends, or for some time. A step of a trial is shown and changes no plan."""
    until = time.monotonic() + seconds
    ended = False
    while not ended and (left := until - time.monotonic()) > 0:
        for news in workers.news(None if math.isinf(left) else left):
            if isinstance(news, StepsDone):
                progress.step(news.trial, news.step)
            else:
                folder.append(news)
                ended = True


def _start(
    plan: Plan, folder: Folder, book: Book, workers: Workers | Here, courses: Sequence[Course],
    waiting: Sequence[Trial], task: str | Script,
) -> bool:  # fmt: skip
    """Start trials while workers are free. Returns whether other processes run some of those that wait."""
    own = {contender.name: one for contender, one in zip(plan.contenders, courses, strict=True)}
    by_name = {contender.name: contender for contender in plan.contenders}
    others = False
    for trial in folder.order(waiting):
        if not workers.free:
            break
        if not folder.claim(trial.id, trial):
            others = True
            continue
        book.read(folder.outcomes())
        if trial.id in book.done:  # another process has finished it since
            folder.give_back(trial.id)
            others = True
            continue
        judged = None
        if plan.prune and trial.phase == "tune":
            judged = [book.done[one] for one in own[trial.optimizer].rivals(trial)]
        workers.start(Job(trial, task, by_name[trial.optimizer], plan.steps, judged, plan.device))
    return others


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
