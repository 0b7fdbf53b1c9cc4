"""One file from its path to what was found in it, through the cache."""

from __future__ import annotations

from dataclasses import dataclass, field

from stepwell.errors import printable
from stepwell.lint import cache
from stepwell.lint.document import Unread
from stepwell.lint.examined import Examined, Hit, examined
from stepwell.lint.reading import bytes_of, check_size, document
from stepwell.lint.walk import Target


@dataclass(frozen=True)
class Job:
    """A file to look at.

    Attributes:
        target: which one.
        cache: the folder of its cache; no cache if empty.
        data: its content, where that does not come from the disk.
    """

    target: Target
    cache: str = ""
    data: bytes | None = None

    def content(self) -> bytes:
        """Raises Unread."""
        if self.data is None:
            return bytes_of(self.target.path)
        check_size(len(self.data), self.target.file.endswith(".ipynb"))
        return self.data

    def key(self, data: bytes) -> str:
        return cache.key(data, self.target.file.endswith(".ipynb"))


@dataclass
class Outcome:
    """What all checks found in a file, muted or not, selected or not; and what went wrong there, a line each."""

    target: Target
    hits: list[Hit] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)


def remembered(job: Job) -> Outcome | None:
    """What the cache says of a file, or None."""
    if not job.cache:
        return None
    try:
        data = job.content()
    except Unread as error:
        return _unread(job.target, error)
    found = cache.load(job.cache, job.target.path, job.key(data), job.target.file)
    return None if found is None else Outcome(job.target, found.hits)


def outcome(job: Job) -> Outcome:
    """Look at a file, and put what was found into the cache."""
    try:
        data = job.content()
        found = examined(document(job.target.file, data))
    except Unread as error:
        return _unread(job.target, error)
    if job.cache:
        cache.save(job.cache, job.target.path, job.key(data), found)
    return Outcome(job.target, found.hits, troubles(found))


def troubles(found: Examined) -> list[str]:
    """What went wrong, a line each."""
    return ([found.unreadable] if found.unreadable else []) + found.failed


def _unread(target: Target, error: Unread) -> Outcome:
    return Outcome(target, troubles=[f"{printable(target.file)}: {error}"])
