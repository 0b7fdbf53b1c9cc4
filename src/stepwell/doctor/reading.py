"""Reads a journal from disk, once or while the run is still writing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from stepwell import arguments
from stepwell.doctor.run import FORMAT, Records, Run
from stepwell.errors import UsageError, printable


def read(path: str | os.PathLike[str]) -> Run:
    """The run of a journal, which may still be written. An unfinished last line is skipped.

    Where a resumed run repeats updates, the last record of an update counts.

    Raises UsageError, one line, for a file that is not a journal, is of another format, or cannot be read.
    """
    reader = Reader(path)
    reader.more(whole=True)
    return reader.run()


class Reader:
    """Reads a journal step by step: each call of `more` reads what was written since the last one.

    Raises UsageError, one line, if the file does not exist or is not a file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path: Path = arguments.path("doctor", "journal", path)
        self._said = printable(str(self.path))[:200]
        if not self.path.exists():
            raise UsageError(f"{self._said} does not exist; give the journal of a run, as run.jsonl")
        if not self.path.is_file():
            raise UsageError(f"{self._said} is not a file; give the journal of a run, as run.jsonl")
        self._restart()

    def _restart(self) -> None:
        self.records = Records()
        self._offset = 0
        self._unreadable = 0

    @property
    def begun(self) -> bool:
        """Whether the journal has its first line."""
        return self.records.starts > 0

    def more(self, whole: bool = False) -> bool:
        """Read the new lines; says whether there were any. `whole`: read the last line, too, if it has no end.

        A file that has become shorter was replaced, and is read from its beginning. Raises UsageError for a file that
        is not a journal or cannot be read.
        """
        found = False
        try:
            with self.path.open("rb") as file:
                if os.fstat(file.fileno()).st_size < self._offset:
                    self._restart()
                file.seek(self._offset)
                for text in file:
                    ended = text.endswith(b"\n")
                    if not self._offset and (ended or whole or not _may_become(text)) and not is_journal(text):
                        raise UsageError(_other(self._said, text))
                    if ended or whole:
                        self._add(text, ended)
                        self._offset += len(text)
                        found = True
        except OSError as error:
            raise UsageError(f"cannot read {self._said}: {error.strerror or error}") from None
        return found

    def run(self) -> Run:
        """The run so far. Raises UsageError for an empty file."""
        if not self.begun:
            raise UsageError(f"{self._said} is empty: the run has not started yet, or this is not a journal")
        return self.records.run(self.path.name, self._unreadable)

    def _add(self, text: bytes, ended: bool) -> None:
        record = _object(text)
        if record is not None:
            self.records.add(record)
        elif ended and text.strip():
            self._unreadable += 1


def is_journal(first: bytes) -> bool:
    """Whether the first line of a file is that of a journal which this version reads."""
    record = _object(first)
    return record is not None and record["kind"] == "start" and record.get("format") == FORMAT


def _may_become(first: bytes) -> bool:
    """Whether an unfinished first line may become that of a journal."""
    begin = b'{"kind":"start"'
    return first.startswith(begin) or begin.startswith(first)


def _other(said: str, first: bytes) -> str:
    record = _object(first)
    if record is not None and record["kind"] == "start" and "format" in record:
        return (
            f"{said} is a journal of format {printable(str(record['format']))[:20]}, and this version reads format "
            f"{FORMAT}; use the version of stepwell that wrote the journal"
        )
    return f"{said} is not a journal of the doctor, which begins with a line of kind 'start'; give another file"


def _object(text: bytes) -> dict[str, Any] | None:
    """One line as a record, or None."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):  # bytes that are not UTF-8 are a ValueError, too
        return None
    return record if isinstance(record, dict) and isinstance(record.get("kind"), str) else None
