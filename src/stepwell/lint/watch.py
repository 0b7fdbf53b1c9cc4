"""Look again whenever a file changes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable

from stepwell.lint.configuration import FILE
from stepwell.lint.run import STDIN

PAUSE = 0.5  # seconds between two looks at the clocks of the files: 2,000 files cost 20 ms each time


def watch(
    look: Callable[[], object],
    files: Callable[[], Iterable[str]],
    pause: float = PAUSE,
    rounds: int | None = None,
) -> None:
    """Call `look`, and again after every change of a file; Ctrl-C ends it.

    Args:
        look: looks and prints.
        files: the files that matter now; new ones are found, too.
        pause: seconds between two looks at the files.
        rounds: how many looks at the files; without an end if None.
    """
    before = stamps(files())
    look()
    while rounds is None or rounds > 0:
        time.sleep(pause)
        now = stamps(files())
        if now != before:
            look()
        before = now
        rounds = None if rounds is None else rounds - 1


def stamps(files: Iterable[str]) -> dict[str, tuple[int, int]]:
    """What tells that a file has changed: its time and its size. Configurations in their folders count, too."""
    found = {}
    folders = set()
    for path in files:
        folders.add(os.path.dirname(path))
        found[path] = _stamp(path)
    for folder in folders - {STDIN}:
        file = os.path.join(folder, FILE)
        found[file] = _stamp(file)
    return found


def _stamp(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return 0, -1
    return status.st_mtime_ns, status.st_size
