"""The path of a task with local data, `images:/data/flowers`, and the refusals that these tasks share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from stepwell import arguments
from stepwell.errors import UsageError, printable

_SHOWN = 200  # characters of a path in a message
_NAMES = 5  # of the files in a folder, in a message


def given_path(task: str, written: str) -> Path:
    """The path as an existing file or folder; `~` is the home folder. Raises UsageError."""
    path = arguments.path(f"task '{task}'", "path", written, do=f"write {task}:/path/to/data")
    try:
        path = path.expanduser()
        there = path.exists()
    except (OSError, RuntimeError, ValueError):  # too long; an unknown user after the ~
        there = False
    if not there:
        raise refused(task, path, "does not exist", "an existing path")
    return path


def refused(task: str, path: Path, found: str, expected: str) -> UsageError:
    """The error for data that is not as expected: where, what was found, what is expected."""
    return UsageError(f"task '{task}': '{printable(str(path))[:_SHOWN]}' {found}; expected: {expected}")


def contents(folder: Path) -> str:
    """What a folder holds, for a message."""
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    if not names:
        return "is empty"
    more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    return f"holds {', '.join(printable(name)[:60] for name in names[:_NAMES])}{more}"


def digest(root: Path, files: Iterable[Path]) -> str:
    """A short name for this version of the data: names and sizes of the files."""
    lines = (f"{path.relative_to(root).as_posix()} {path.stat().st_size}" for path in files)
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()[:12]
