"""Worker processes, each with one trial at a time. If a worker dies, only its trial is lost.

concurrent.futures is not used, because one killed process breaks its whole pool and the lost trial is not known.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from stepwell.compare import ahead
from stepwell.compare.outcome import Outcome, crashed
from stepwell.compare.plan import Contender, Trial
from stepwell.compare.script import Script
from stepwell.errors import UsageError


@dataclass(frozen=True)
class Job:
    """The input of a worker: the trial and everything needed to run it. `task`: its name, or a command."""

    trial: Trial
    task: str | Script
    contender: Contender
    steps: int
    rivals: Sequence[Outcome] | None
    device: str


@dataclass(frozen=True)
class StepsDone:
    """A message from a worker: its trial has completed this many steps."""

    trial: Trial
    step: int


class Workers:
    """At most `jobs` processes, started on demand and reused for the next trial.

    >>> with Workers(jobs=2, threads=1) as workers:  # doctest: +SKIP
    ...     workers.start(job)
    ...     for news in workers.news():
    ...         print(news)
    """

    def __init__(self, jobs: int, threads: int) -> None:
        self._threads = threads
        self._jobs = jobs
        self._idle: list[_Worker] = []
        self._busy: list[_Worker] = []

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *exc: object) -> None:
        for worker in self._idle + self._busy:
            worker.stop()
        self._idle, self._busy = [], []
        ahead.end()

    @property
    def free(self) -> int:
        """How many more trials can start now."""
        return self._jobs - len(self._busy)

    @property
    def running(self) -> list[Trial]:
        """The running trials."""
        return [worker.job.trial for worker in self._busy if worker.job is not None]

    def start(self, job: Job) -> None:
        """Send a job to a free worker."""
        assert self.free > 0
        worker = self._idle.pop() if self._idle else _Worker(self._threads)
        self._busy.append(worker)
        worker.give(job)

    def news(self, timeout: float | None = None) -> Iterator[StepsDone | Outcome]:
        """Wait until at least one worker sends a message (or `timeout` seconds), then return all messages.

        Raises UsageError if a worker raised one, because it would occur in every trial.
        """
        ready = wait([worker.pipe for worker in self._busy], timeout)
        for worker in [worker for worker in self._busy if worker.pipe in ready]:
            assert worker.job is not None
            trial = worker.job.trial
            try:
                kind, said = worker.pipe.recv()
            except (EOFError, OSError):  # the other end is gone: the process has died
                self._busy.remove(worker)
                yield crashed(trial, worker.obituary(), lost=True)
                continue
            if kind == "step":
                yield StepsDone(trial, said)
                continue
            self._busy.remove(worker)
            self._idle.append(worker)
            worker.job = None
            if kind == "usage":
                raise UsageError(said)
            yield said


class _Worker:
    """One process and the pipe to it."""

    def __init__(self, threads: int) -> None:
        self.job: Job | None = None
        self.process, self.pipe = ahead.take(threads)

    def give(self, job: Job) -> None:
        self.job = job
        with contextlib.suppress(OSError):  # it died while idle: the end of the pipe will say so
            self.pipe.send(job)

    def obituary(self) -> str:
        self.process.join(5)
        code = self.process.exitcode
        self.stop()
        if code is not None and code < 0:
            with contextlib.suppress(ValueError):
                return f"worker process killed by {signal.Signals(-code).name}" + (
                    " (out of memory?)" if -code == signal.SIGKILL else ""
                )
        return f"worker process died with exit code {code}"

    def stop(self) -> None:
        self.pipe.close()
        if self.process.is_alive():
            self.process.terminate()
            self.process.join(5)
        if self.process.is_alive():  # a task that ignores SIGTERM
            self.process.kill()
            self.process.join()


def _ended(number: int, frame: Any) -> None:
    """SIGTERM ends a worker by an exception, so that it ends the command that it runs."""
    raise SystemExit(1)


def work(pipe: Connection, threads: int) -> None:
    """The loop of a worker: receive a job, send steps and an outcome, until the pipe closes."""
    import torch

    from stepwell.compare.trial import run_trial
    from stepwell.tasks import find

    torch.set_num_threads(threads)
    tasks: dict[str, Any] = {}
    parent = os.getppid()
    while True:
        try:
            job: Job = pipe.recv()
        except EOFError:
            return
        trial = job.trial

        def say(kind: str, said: Any) -> None:
            try:
                pipe.send((kind, said))
            except OSError:  # the parent is gone; nobody wants the rest
                os._exit(0)

        try:
            if isinstance(job.task, Script):
                signal.signal(signal.SIGTERM, _ended)
                say("outcome", job.task.run(job.contender, trial, job.steps, threads, lambda: os.getppid() != parent))
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                continue
            if job.task not in tasks:
                tasks[job.task] = find(job.task)
            outcome = run_trial(
                tasks[job.task], job.contender, trial, job.steps, job.rivals, job.device,
                progress=lambda step, say=say: say("step", step),  # type: ignore[misc]
            )  # fmt: skip
        except UsageError as error:
            say("usage", str(error))
            continue
        except SystemExit as error:
            if isinstance(job.task, Script):
                os._exit(1)
            outcome = crashed(trial, f"SystemExit: {error.code}")
        say("outcome", outcome)


class Here:
    """Runs the trials of a function in this process, one after the other, with the methods of `Workers`."""

    def __init__(self, function: Any) -> None:
        self._function = function
        self._jobs: list[Job] = []

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *exc: object) -> None:
        self._jobs = []

    @property
    def free(self) -> int:
        return 1 - len(self._jobs)

    @property
    def running(self) -> list[Trial]:
        return [job.trial for job in self._jobs]

    def start(self, job: Job) -> None:
        self._jobs.append(job)

    def news(self, timeout: float | None = None) -> Iterator[StepsDone | Outcome]:
        """Run the trial. What the function raises is its outcome; Ctrl-C ends the comparison."""
        job = self._jobs[0]
        outcome: Outcome = self._function.run(job.contender, job.trial, job.steps)
        self._jobs = []
        yield outcome
