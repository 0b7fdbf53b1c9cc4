"""Many files, over several processes where that pays."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from warnings import catch_warnings, simplefilter

from stepwell.errors import UsageError
from stepwell.lint.one_file import Job, Outcome, outcome, remembered

# Starting two processes takes 60 ms by fork and 300 ms otherwise; a file of 250 lines takes 5 to 15 ms.
WORTH_IT = 24
_CHUNK = 8


def outcomes(jobs: Sequence[Job], processes: int | None = None) -> list[Outcome]:
    """What was found in each file, in the order of the files.

    Args:
        jobs: the files. Those that the cache knows cost a fraction of a millisecond, here.
        processes: for the others; None: one for each core that this process may use, and only this one for few files.

    Raises UsageError if a process was ended from outside.
    """
    found = [remembered(job) for job in jobs]
    rest = iter(_looked_at([job for job, known in zip(jobs, found, strict=True) if known is None], processes))
    return [next(rest) if known is None else known for known in found]


def _looked_at(jobs: Sequence[Job], processes: int | None) -> Iterator[Outcome]:
    if processes is None:
        processes = cores() if len(jobs) >= WORTH_IT else 1
    processes = min(processes, len(jobs))
    if processes <= 1:
        yield from map(outcome, jobs)
        return
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import active_children, get_context

    # what a forked child needs is there already; the libraries of macOS do not survive a fork
    is_linux = os.name == "posix" and os.uname().sysname == "Linux"
    if is_linux:
        _warm_up()
    others = set(active_children())
    pool = ProcessPoolExecutor(processes, get_context("fork" if is_linux else "spawn"), _begin)
    try:
        with catch_warnings():  # from Python 3.12 on, of a fork beside threads: the command has none
            simplefilter("ignore", DeprecationWarning)
            found = pool.map(outcome, jobs, chunksize=max(1, min(_CHUNK, len(jobs) // (4 * processes))))
        yield from found
    except BrokenProcessPool:
        raise UsageError(
            "a process of the linter was ended from outside, perhaps for want of memory: give --jobs 1, or fewer paths"
        ) from None
    except BaseException:  # after Ctrl-C nobody waits for what is being looked at
        for child in set(active_children()) - others:
            child.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _warm_up() -> None:
    """Import before the fork what every child would import for itself."""
    from importlib import import_module

    from stepwell.lint.cache import key
    from stepwell.lint.checks import load

    import_module("stepwell.lint.analysis")
    import_module("stepwell.lint.notebook")
    load()
    key(b"", is_notebook=False)


def _begin() -> None:
    """What a process of the pool does first. Ctrl-C reaches every process of a terminal; only the first one answers.

    Trees and events are many small objects that live as long as their file: looking for garbage among them as often as
    Python does by default took 15 % of the time."""
    import gc
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)
