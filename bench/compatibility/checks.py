"""All checks of what is around an optimizer, in the order of the page."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Iterator

from compatibility import in_process, in_processes, trainers
from compatibility.subjects import SUBJECTS, Subject, outcome

Check = Callable[[Subject], str | None]

# Those that run in this process in less than a second for each optimizer; the others.
QUICK: dict[str, Check] = dict(in_process.QUICK)
SLOW: dict[str, Check] = {**in_process.COMPILED, **in_processes.STARTED, **trainers.TRAINERS}


def run(
    checks: dict[str, Check], subjects: tuple[Subject, ...] = SUBJECTS, progress: Callable[[str], None] = lambda _: None
) -> dict[tuple[str, str], str]:
    """(check, optimizer) -> how it ended."""
    found = {}
    for name, check in checks.items():
        progress(name)
        for subject in subjects:
            with _silent():
                found[name, subject.label] = outcome(check, subject)
    return found


def everything(progress: Callable[[str], None]) -> dict[tuple[str, str], str]:
    """All checks of all subjects."""
    found = run({**QUICK, **SLOW}, SUBJECTS, progress)
    progress("what is spread over two processes")
    return found | in_processes.spread()


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Trainers print and log."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)
