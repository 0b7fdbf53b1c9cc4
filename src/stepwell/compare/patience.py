"""Calls of a storage that outlast a restart of its server or a network that is down for some minutes."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path
from typing import Any

from stepwell.compare.storage import Opened, reason
from stepwell.errors import UsageError, shown
from stepwell.terminal import say

PATIENCE = 600.0  # seconds; a restart takes seconds, the failover of a managed database a few minutes
LONGEST = 30.0  # seconds between two tries


def seconds_from(name: str, default: float) -> float:
    """A positive number of seconds from the environment."""
    given = os.environ.get(name, "")
    try:
        value = float(given) if given else default
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise UsageError(f"{name}={shown(given)}; it must be a number of seconds above 0")
    return value


class Patient:
    """A storage whose operations are tried again while it does not answer, with growing waits.

    An operation may have been done although its answer was lost: callers must be able to see that it was done twice.

    >>> from stepwell.compare.storage import open_storage
    >>> storage = Patient(open_storage("journal://file.log"), kept=Path("runs/digits"))
    >>> storage.call("get_all_studies")
    []
    """

    def __init__(self, opened: Opened, kept: Path) -> None:
        import optuna
        import sqlalchemy

        self.storage = opened.storage
        self.name = opened.name
        self.troubles = 0  # how often it did not answer
        self._kept = kept
        self._patience = seconds_from("STEPWELL_STORAGE_PATIENCE", PATIENCE)
        self._refusal = optuna.exceptions.UpdateFinishedTrialError  # an answer, and no trouble
        self._trouble = (
            optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError, sqlite3.Error, OSError,
            ValueError,  # a line of a journal that another machine is writing
            RuntimeError,  # the lock of a journal, taken away by others
        )  # fmt: skip

    def call(self, operation: str, *args: Any, **named: Any) -> Any:
        """Do an operation of Optuna's BaseStorage. Raises UsageError once patience is at its end."""
        began: float | None = None
        pause = 0.25
        said = False
        while True:
            try:
                result = getattr(self.storage, operation)(*args, **named)
            except self._refusal:
                raise
            except KeyError:
                raise UsageError(
                    f"--storage {shown(self.name)}: the comparison is not there any more; "
                    f"its trials are in {self._kept}; run the same command again"
                ) from None
            except self._trouble as error:
                self.troubles += 1
                now = time.monotonic()
                began = now if began is None else began
                why = reason(error)
                if now - began + pause > self._patience:
                    raise UsageError(
                        f"--storage {shown(self.name)} does not answer for {now - began:.0f} s ({why}); "
                        f"all finished trials are in {self._kept}; run the same command again"
                    ) from None
                if not said and now > began:
                    said = True
                    say(f"--storage {shown(self.name)} does not answer ({why}); trying again for "
                        f"{self._patience:.0f} s; finished trials are kept in {self._kept}")  # fmt: skip
                time.sleep(pause)
                pause = min(2 * pause, LONGEST)
            else:
                if said:
                    say("the storage answers again")
                return result
