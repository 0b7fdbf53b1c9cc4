"""Worker processes that are started before they are needed: a worker imports torch while the command still does so
itself. This file needs neither torch nor the tasks."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

_ready: list[tuple[int, Any, Connection]] = []  # threads, process and pipe of workers that nobody has taken


def begin(jobs: int, threads: int) -> None:
    """Start workers for a comparison that is about to begin."""
    _ready.extend((threads, *_started(threads)) for _ in range(jobs))


def take(threads: int) -> tuple[Any, Connection]:
    """A worker process and the pipe to it: one that was started ahead, or a new one."""
    for place, (theirs, process, pipe) in enumerate(_ready):
        if theirs == threads:
            del _ready[place]
            return process, pipe
    return _started(threads)


def end() -> None:
    """End the workers that nobody has taken."""
    while _ready:
        _, process, pipe = _ready.pop()
        pipe.close()
        process.terminate()
        process.join()


def _started(threads: int) -> tuple[Any, Connection]:
    context = multiprocessing.get_context("spawn")  # fork and torch's threads do not go together
    pipe, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, threads), daemon=True, name="stepwell-worker")
    with _plain_main():
        process.start()
    theirs.close()  # so that the worker's death is seen as the end of the pipe
    return process, pipe


def _work(pipe: Connection, threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides what stops
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)  # before torch and numba are imported, which read them once
    from stepwell.compare.worker import work

    work(pipe, threads)


@contextlib.contextmanager
def _plain_main() -> Iterator[None]:
    """Start a worker without running the user's main script again, which the worker does not need.

    The spawn method imports the main module again in each child. That costs its imports and, for a script without
    `if __name__ == "__main__"`, starts the comparison again.
    """
    main = sys.modules["__main__"]
    missing = object()
    saved = {name: getattr(main, name, missing) for name in ("__file__", "__spec__")}
    try:
        main.__file__, main.__spec__ = None, None
        yield
    finally:
        for name, value in saved.items():
            if value is missing:
                delattr(main, name)
            else:
                setattr(main, name, value)


def threads_per_worker(jobs: int, cores: int | None = None) -> int:
    """Torch threads of each worker: OMP_NUM_THREADS where the user has set it, or else so many that all workers
    together use every core once.

    >>> threads_per_worker(3, cores=8)
    2
    """
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if cores is None and given.isdecimal() and int(given) > 0:
        return int(given)
    return max(1, (cores or available_cores()) // jobs)


def available_cores() -> int:
    """The number of cores that this process may use, in a container often fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
