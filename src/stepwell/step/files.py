"""Checkpoint files. Each is written completely or not at all, and never replaces a file that this run did not write.

A save writes `.NAME.….part` in the folder of `path`, forces it to disk, rotates the earlier checkpoints (path.1,
path.2,
...) and renames the new file to `path`. There is always a file at `path`: the old checkpoint gets its second name by a
hard link.

The zip comment of each file names its owner: the run, the path and the inode. A file is replaced or deleted only if all
three agree. The numbers of a user's own `ck.1.pt`, of a copy, and of another run's checkpoint are skipped.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from stepwell.errors import UsageError
from stepwell.step import processes
from stepwell.step.label import is_checkpoint, read_label, write_label
from stepwell.step.part import PutBack, copy_kept

_DAY = 86_400.0
_PATIENCE = 30.0  # seconds until another process must have moved its few files


class SaveFailed(UsageError, OSError):
    """A checkpoint could not be written. The previous checkpoint is unchanged."""


class Files:
    """The checkpoint files of one run.

    Args:
        run: the name of the run; a resumed run keeps its name.
    """

    def __init__(self, run: str | None = None) -> None:
        self.run = run or uuid.uuid4().hex
        self.fresh = True  # whether nothing was saved or loaded yet
        self._last: dict[str, str] = {}  # path: the save that this process has put there, or loaded from there
        # (path of the saves, file): what this process has put there, loaded from there, or found damaged on the way.
        # Some network file systems number their files anew, and files of an earlier version have no label
        self._known: dict[tuple[str, str], tuple[int, int, int]] = {}

    # As a part

    def state_dict(self) -> str:
        """The name of the run."""
        return self.run

    def check_state(self, state: Any) -> None:
        """Accept any name: an earlier version saved none."""

    def load_state_dict(self, state: Any) -> None:
        if isinstance(state, str):
            self.run = state

    def kept(self) -> PutBack:
        return copy_kept(self)

    # What is whose

    def adopt(self, path: Path, taken: Path, damaged: list[Path]) -> None:
        """Continue from a checkpoint saved to `path`. This run now owns the loaded file and the damaged files."""
        self.fresh = False
        label = read_label(path)
        if label is not None:
            self._last[_full(path)] = label["save"]
        label = read_label(taken)
        if label is None or label["name"] == path.name:
            damaged = [*damaged, taken]
        for one in damaged:
            if one.is_file() and not one.is_symlink():
                self._known[_full(path), _full(one)] = _identity(one)

    def owns(self, candidate: Path, path: Path) -> bool:
        """Whether a save of this run to `path` wrote `candidate`."""
        if candidate.is_symlink() or not candidate.is_file():
            return False
        identity = _identity(candidate)
        if self._known.get((_full(path), _full(candidate))) == identity:
            return True
        label = read_label(candidate)
        if label is None or label["run"] != self.run or label["name"] != path.name:
            return False
        return bool(label["inode"] == identity[0])

    # Writing

    def save(self, path: Path, write: Callable[[Any], None], keep: int, rank: int | None) -> None:
        """Let `write` fill a file, rotate the older checkpoints, then rename the new file to `path`."""
        try:
            refuse_strangers(path)
            self._check_last(path, rank)  # before the long work; once more when no other process can come between
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._written(path, write, rank) as (temporary, save), alone(path.parent):
                aside = self._check_last(path, rank)
                self._move_up(path, keep, aside)
                os.replace(temporary, path)
                self.fresh = False
                self._last[_full(path)] = save
                self._known[_full(path), _full(path)] = _identity(path)
                self._remove_older(path, keep)
            sync_folder(path.parent)
        except OSError as error:
            if isinstance(error, UsageError):
                raise
            raise failed(path, error) from error

    @contextlib.contextmanager
    def _written(self, path: Path, write: Callable[[Any], None], rank: int | None) -> Iterator[tuple[Path, str]]:
        """A complete file in the folder of `path`, on disk. It is removed afterwards unless it was renamed."""
        remove_leftovers(path)
        temporary = path.with_name(f".{path.name}.{processes.mark()}.{'' if rank is None else f'r{rank}.'}part")
        try:
            with open(temporary, "wb+") as file:
                save = self._fill(file, path, write, rank)
            yield temporary, save
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _fill(self, file: Any, path: Path, write: Callable[[Any], None], rank: int | None) -> str:
        watched = _Watched(file)
        try:
            write(watched)
            file.flush()
            save = uuid.uuid4().hex
            label = {
                "stepwell": 1,
                "run": self.run,
                "name": path.name,
                "inode": os.fstat(file.fileno()).st_ino,
                "save": save,
                "time": time.time_ns(),
                "process": processes.mark(),
                "rank": rank,
            }
            write_label(file, label)
            file.flush()
            os.fsync(file.fileno())
        except RuntimeError as error:  # torch's words for a write that failed
            if watched.fault is None:
                raise
            raise watched.fault from error
        return save

    def _check_last(self, path: Path, rank: int | None) -> Path | None:
        """Raise UsageError if another process also saves to `path`. Otherwise return where to keep a checkpoint of
        another run."""
        if not path.exists():
            return None
        label = read_label(path)
        known = self._last.get(_full(path))
        another_rank = label is not None and label["run"] == self.run and label.get("rank") not in (None, rank)
        if label is not None and label["save"] != known and not another_rank:
            elsewhere = label["process"] != processes.mark()
            if known is not None or (elsewhere and processes.ended(label["process"]) is False):
                who = f"process {label['process'].split('-')[1]}" if elsewhere else "another Step of this process"
                raise SaveFailed(
                    f"Step: {path} was written by {who} since the last save of this run, and is not replaced; "
                    "give each run its own path"
                )
        if self.owns(path, path):
            return None
        if label is None and not is_checkpoint(path):
            raise UsageError(
                f"Step: {path} was not written by step.save and is not replaced; give another name, or move the file"
            )
        number = 1
        while os.path.lexists(before(path, number)):
            number += 1
        return before(path, number)

    def _move_up(self, path: Path, keep: int, aside: Path | None) -> None:
        """Rotate the earlier checkpoints, oldest first, and give the file at `path` a second name."""
        if aside is not None:
            _second_name(path, aside)
            return
        slots, mine = numbered(path, keep, lambda one: self.owns(one, path))
        if not slots or not path.exists() or (mine and os.path.samefile(mine[0], path)):
            return
        for source, target in reversed(list(zip(mine, slots[1:], strict=False))):
            if source != target:
                os.replace(source, target)
                self._known[_full(path), _full(target)] = _identity(target)
                self._known.pop((_full(path), _full(source)), None)
        _second_name(path, slots[0])
        self._known[_full(path), _full(slots[0])] = _identity(slots[0])

    def _remove_older(self, path: Path, keep: int) -> None:
        slots, mine = numbered(path, keep, lambda one: self.owns(one, path))
        for one in mine:
            if one not in slots:
                one.unlink(missing_ok=True)


def before(path: Path, number: int) -> Path:
    """The file name of the checkpoint `number` saves before the newest: checkpoint.pt, checkpoint.1.pt, ..."""
    return path.with_name(f"{path.stem}.{number}{path.suffix}") if number else path


def numbered(path: Path, keep: int, owns: Callable[[Path], bool]) -> tuple[list[Path], list[Path]]:
    """The names for the keep - 1 earlier checkpoints, and the existing checkpoints of this run, newest first."""
    names: list[Path] = []
    mine: list[Path] = []
    number = 0
    while True:
        number += 1
        one = before(path, number)
        there = os.path.lexists(one)
        if there and owns(one):
            mine.append(one)
        if len(names) < keep - 1:
            if not there or one in mine:
                names.append(one)
        elif not there:
            return names, mine


def candidates(path: Path) -> list[Path]:
    """Files to try: `path`, then the earlier checkpoints of `path`, newest first."""
    pattern = re.compile(re.escape(path.stem) + r"\.([1-9][0-9]*)" + re.escape(path.suffix))
    numbers = []
    with contextlib.suppress(OSError):
        numbers = [int(found[1]) for name in os.listdir(path.parent) if (found := pattern.fullmatch(name))]
    label = read_label(path)
    older: list[tuple[int, int]] = []
    for number in sorted(numbers):
        theirs = read_label(before(path, number))
        if theirs is not None and (
            theirs["name"] != path.name or (label is not None and label["run"] != theirs["run"])
        ):
            continue  # another file that has a number by chance, or another run
        older.append((-theirs["time"] if theirs is not None else 0, number))
    return [path, *(before(path, number) for _, number in sorted(older))]


def refuse_strangers(path: Path) -> None:
    """Raise UsageError if the path is not a regular file: renaming would move a folder with its contents."""
    if path.is_dir():
        raise UsageError(f"Step: {path} is a folder; give a file name, such as {path / 'checkpoint.pt'}")
    if path.is_symlink() or (path.exists() and not path.is_file()):
        what = "a link" if path.is_symlink() else "not a regular file"
        raise UsageError(f"Step: {path} is {what} and is not replaced; give another file name")


def failed(path: Path, error: OSError) -> SaveFailed:
    """The one-line error for an error of the operating system."""
    free = ""
    with contextlib.suppress(OSError):
        found = os.statvfs(path.parent)
        free = f" ({found.f_bavail * found.f_frsize / 2**20:,.0f} MiB are free)"
    reason = error.strerror or str(error) or type(error).__name__
    result = SaveFailed(
        f"Step: {path} was not saved: {reason}{free}; the previous checkpoint is unchanged. Free disk space, or "
        "choose another folder"
    )
    result.errno = error.errno
    return result


# What is left behind by a process that was killed


def remove_leftovers(path: Path) -> None:
    """Remove the unfinished files for `path` whose process has ended; files of another machine, when a day old."""
    pattern = re.compile(re.escape(f".{path.name}.") + r"([0-9a-f]{8}-[0-9]+-[0-9]+)\.(?:r[0-9]+\.)?(?:link\.)?part")
    with contextlib.suppress(OSError):
        for name in os.listdir(path.parent):
            found = pattern.fullmatch(name)
            if found is None:
                continue
            with contextlib.suppress(OSError):
                one = path.with_name(name)
                gone = processes.ended(found[1])
                if gone or (gone is None and time.time() - one.stat().st_mtime > _DAY):
                    one.unlink()


def begun_by_first(path: Path) -> bool:
    """Whether the first rank is writing to `path` now."""
    pattern = re.compile(re.escape(f".{path.name}.") + r"[0-9a-f]{8}-[0-9]+-[0-9]+\.r0\.part")
    with contextlib.suppress(OSError):
        return any(pattern.fullmatch(name) for name in os.listdir(path.parent))
    return False


# The system


class _Watched:
    """A file that remembers why a write failed: torch reports only the byte."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.fault: OSError | None = None

    def write(self, data: Any) -> Any:
        try:
            return self._file.write(data)
        except OSError as error:
            self.fault = error
            raise

    def flush(self) -> None:
        self._file.flush()


def _second_name(path: Path, target: Path) -> None:
    """Make `target` a second name of the file at `path`, replacing any file there."""
    link = path.with_name(f".{path.name}.{processes.mark()}.link.part")
    try:
        os.link(path, link)
    except (OSError, AttributeError, NotImplementedError):  # a file system without hard links
        os.replace(path, target)
        return
    try:
        os.replace(link, target)
    finally:
        with contextlib.suppress(OSError):
            link.unlink(missing_ok=True)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Lock the folder, if the system has locks: no other process rotates checkpoints in it. A lock ends with its
    process."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        _lock(fcntl, handle, folder)
        yield
    finally:
        os.close(handle)


def _lock(fcntl: Any, handle: int, folder: Path) -> None:
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise SaveFailed(
                    f"Step: another process has locked the checkpoints in {folder} for {_PATIENCE:.0f} seconds; "
                    "nothing was saved: give each run its own folder"
                ) from None
            time.sleep(0.01)
        except OSError:  # a network file system without locks
            return
        else:
            return


def sync_folder(folder: Path) -> None:
    """Force the renames to disk, if the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _identity(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _full(path: Path) -> str:
    return os.path.abspath(path)
