"""Which process runs which trial: a lock per trial, which the system takes back when its process ends, however it ends.

Two processes on one folder share its trials by these locks. They work on one machine, and on shared disks that know
locks; workers on several machines share trials by `--storage`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: one process per folder
    fcntl = None  # type: ignore[assignment]  # mypy takes a module's name for the module alone


class Claims:
    """The claims of this process in one folder.

    >>> claims = Claims(Path("claims"))
    >>> claims.take("trial-1"), Claims(Path("claims")).take("trial-1")
    (True, False)
    >>> claims.give_back("trial-1")
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._held: dict[str, int] = {}

    def take(self, name: str) -> bool:
        """Claim a trial. False if another process has it."""
        if name in self._held:
            return False
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / name
        while True:
            file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
            if not _lock(file, wait=False):
                os.close(file)
                return False
            try:
                is_there = os.stat(path).st_ino == os.fstat(file).st_ino
            except FileNotFoundError:
                is_there = False
            if is_there:
                self._held[name] = file
                return True
            os.close(file)  # its holder has removed it between the two calls

    def give_back(self, name: str) -> None:
        file = self._held.pop(name, None)
        if file is not None:
            with suppress(OSError):
                (self.folder / name).unlink()
            os.close(file)

    def close(self) -> None:
        for name in list(self._held):
            self.give_back(name)
        with suppress(OSError):  # other processes may have claims
            self.folder.rmdir()


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Only one process at a time is inside, of all that give the same path."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
    try:
        _lock(file, wait=True)
        yield
    finally:
        os.close(file)


def _lock(file: int, wait: bool) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:  # a disk without locks: then one process per folder
        return True
    return True
