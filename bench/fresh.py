"""What must be measured in a process of its own: the first step, and the peak of memory.

The processes are forked from a server that has imported torch and stepwell and done nothing else, so that a first step
is that of a fresh process after its imports.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable
from typing import Any


def in_fresh_process(function: Callable[..., Any], *args: Any, cache: str) -> Any:
    """The result of a module's function in a new process, with kernels kept in the folder `cache`.

    Raises RuntimeError with what the function said if it raised, or if its process died.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "stepwell", "stepwell.optimizers"])
    ours, theirs = context.Pipe()
    process = context.Process(target=_answer, args=(theirs, function, args, cache))
    process.start()
    theirs.close()
    try:
        done, value = ours.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"{function.__name__}{args}: its process ended with code {process.exitcode}") from None
    finally:
        ours.close()
    process.join()
    if not done:
        raise RuntimeError(f"{function.__name__}{args}: {value}")
    return value


def empty_cache() -> Any:
    """A folder for kernels that goes away at the end of a `with` block."""
    return tempfile.TemporaryDirectory(prefix="stepwell-bench-")


def _answer(pipe: Any, function: Callable[..., Any], args: tuple[Any, ...], cache: str) -> None:
    import os

    os.environ["STEPWELL_CACHE"] = cache
    try:
        pipe.send((True, function(*args)))
    except Exception as error:  # whatever it is, the process that waits at the pipe must hear of it
        pipe.send((False, f"{type(error).__name__}: {error}"))
    pipe.close()
