"""The folder of compiled kernels for later processes. A problem with the folder costs only time.

The folder is `$STEPWELL_CACHE`, else `stepwell` in `$XDG_CACHE_HOME`, else `~/.cache/stepwell`. A file in it is
replaced in one piece, so that no process reads half of what another one writes, and it is read only if nobody but this
user (and root) can have written it. A folder that others may write to gets a folder inside, for this user alone.
"""

from __future__ import annotations

import os
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path

LARGEST = 1 << 26  # bytes of a file that is read at all; the largest kernel of the test suite takes 0.3 MB
_OPEN = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_ABANDONED = 3600  # seconds after which a file that was never finished belongs to a process that was killed


def read(name: str) -> bytes | None:
    """The content of a file in the folder; None if there is no file that this user can trust."""
    place = folder()
    if place is None:
        return None
    try:
        handle = os.open(place / name, _OPEN)  # without waiting: a pipe of that name must not stop training
    except OSError:
        return None
    try:
        # The open file is looked at, not its path, which may lead elsewhere a moment later.
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode) or found.st_size > LARGEST or not _only_ours(found):
            return None
        with os.fdopen(os.dup(handle), "rb") as file:
            return file.read(LARGEST)
    except OSError:
        return None
    finally:
        os.close(handle)


def write(name: str, content: bytes) -> None:
    """Write a file into the folder if possible: the disk may be full, and the folder read-only or removed."""
    place = folder()
    if place is None:
        return
    with suppress(OSError):
        _remove_abandoned(place)
        handle, temporary = tempfile.mkstemp(prefix=f"{name}.", suffix=".tmp", dir=place)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            _move(Path(temporary), place / name)
        finally:
            with suppress(OSError):  # it has moved, or the disk is full
                os.unlink(temporary)


def folder() -> Path | None:
    """The folder of kernels, created if necessary; None if there is no such folder.

    It is looked up each time, because it may be removed while the process runs.
    """
    try:
        place = _wanted()
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _only_ours(place.stat()):
            return place
        own = place / f"user-{os.geteuid()}"
        own.mkdir(mode=0o700, exist_ok=True)
        found = own.lstat()
        return own if stat.S_ISDIR(found.st_mode) and _only_ours(found) else None
    except (OSError, RuntimeError, KeyError):  # no HOME, and no entry for the user to read it from
        return None


def _wanted() -> Path:
    given = os.environ.get("STEPWELL_CACHE")
    if given:
        return Path(given).absolute()
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache").absolute() / "stepwell"


def _only_ours(found: os.stat_result) -> bool:
    """Whether only this user and root can write to a file or a folder."""
    if not hasattr(os, "geteuid"):  # Windows keeps users apart by other means; a profile's folder is its user's
        return True
    return found.st_uid in (0, os.geteuid()) and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _move(temporary: Path, path: Path) -> None:
    try:
        os.replace(temporary, path)
    except OSError:
        if path.is_symlink() or not path.is_dir():
            raise
        path.rename(f"{temporary}.aside")  # a folder in the way: somebody's, so it is kept under another name
        os.replace(temporary, path)


def _remove_abandoned(place: Path) -> None:
    for path in place.glob("kernel_*.tmp"):
        with suppress(OSError):
            if time.time() - path.lstat().st_mtime > _ABANDONED:
                path.unlink()
