"""Worker processes, each with one trial at a time. If a worker dies, only its trial is lost.

concurrent.futures is not used, because one killed process breaks its whole pool and the lost trial is not known.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any

from stepwell.compare import ahead
from stepwell.compare.outcome import Outcome, crashed
from stepwell.compare.plan import Trial
from stepwell.compare.worker import Job
from stepwell.errors import UsageError


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
