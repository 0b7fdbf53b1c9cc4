"""The loop of a worker process: one trial after the other."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

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
                progress=partial(say, "step"),
            )  # fmt: skip
        except UsageError as error:
            say("usage", str(error))
            continue
        except SystemExit as error:
            if isinstance(job.task, Script):
                os._exit(1)
            outcome = crashed(trial, f"SystemExit: {error.code}")
        say("outcome", outcome)
