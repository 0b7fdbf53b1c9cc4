"""Ctrl-C, and other signals whose handlers may raise, are delayed until an update is complete."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# SIGINT first: once it is held, the others can be held in peace.
_NAMES = ("SIGINT", "SIGTERM", "SIGALRM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGQUIT", "SIGBREAK")
_SIGNALS = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
_PATIENCE = 3  # the third Ctrl-C gets through: an update may wait for another process that is gone


class Held:
    """Inside `with Held():` signal handlers written in Python do not run; pending handlers run afterwards.

    An update is many operations, and an interrupt between two of them would leave some weights moved and others not.
    Python runs handlers only in the main thread; in other threads this does nothing. Costs 4 microseconds.
    """

    def __init__(self) -> None:
        self._handlers: dict[int, Any] = {}
        self._came: list[int] = []

    def __enter__(self) -> Held:
        self._hold()
        return self

    def __exit__(self, *_: object) -> None:
        self._release()

    @contextmanager
    def released(self) -> Iterator[None]:
        """Context manager around a function of the user: handlers run as usual inside."""
        self._release()
        try:
            yield
        finally:
            self._hold()

    def _hold(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        try:
            for number in _SIGNALS:
                handler = signal.getsignal(number)
                if callable(handler):
                    self._handlers[number] = handler
                    signal.signal(number, self._later)
        except BaseException:
            self._put_back()
            raise

    def _later(self, number: int, frame: Any) -> None:
        self._came.append(number)
        if self._came.count(number) >= _PATIENCE:
            self._release()

    def _release(self) -> None:
        handlers = dict(self._handlers)
        self._put_back()
        came, self._came = list(dict.fromkeys(self._came)), []
        for number in came:
            handlers[number](number, None)

    def _put_back(self) -> None:
        for number in reversed(list(self._handlers)):
            signal.signal(number, self._handlers[number])
            del self._handlers[number]
