"""A file with its fixes: what becomes of it, and writing it back."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field

from stepwell.errors import UsageError, printable
from stepwell.lint.document import Document, Unread
from stepwell.lint.examined import Hit
from stepwell.lint.fixing import fixed
from stepwell.lint.one_file import Job, Outcome, troubles
from stepwell.lint.reading import document
from stepwell.lint.walk import Target


@dataclass
class Change:
    """A file before and after its fixes, and what is left in it.

    Attributes:
        outcome: what is found after the fixes.
        made: the code of each fix.
        old, new: the document before and after; None where it could not be read.
    """

    outcome: Outcome
    made: list[str] = field(default_factory=list)
    data: bytes = b""
    old: Document | None = None
    new: Document | None = None


def change(job: Job, counts: Callable[[Hit], bool], unsafe: bool) -> Change:
    """Work out the fixes of a file; nothing is written."""
    try:
        data = job.content()
        old = document(job.target.file, data)
    except Unread as error:
        return Change(Outcome(job.target, troubles=[f"{printable(job.target.file)}: {error}"]))
    done = fixed(old, counts, unsafe)
    if done.made and old.data() != data:  # UTF-7 and the like: what is not touched would not stay as it is
        return Change(
            Outcome(job.target, troubles=[f"{printable(job.target.file)}: its encoding cannot be written back"])
        )
    return Change(Outcome(job.target, done.left.hits, troubles(done.left)), done.made, data, old, done.document)


def write(target: Target, before: bytes, after: bytes) -> None:
    """Put new bytes into the place of a file; its mode stays, and a link stays a link.

    Raises UsageError if the file was changed meanwhile, or cannot be written.
    """
    from pathlib import Path

    from stepwell.files import write_whole

    real, name = os.path.realpath(target.path), printable(target.file)
    try:
        with open(real, "rb") as stream:
            now = stream.read()
        mode = os.stat(real).st_mode
    except OSError as error:
        raise UsageError(f"cannot write {name}: {error.strerror}") from None
    if now != before:
        raise UsageError(f"{name} was changed while it was checked: it is left as it is; run this again")
    if not os.access(real, os.W_OK):
        raise UsageError(f"cannot write {name}: it may only be read")
    write_whole(Path(real), after, mode=mode & 0o7777)
