"""A process that measures for another one: a row that hangs, or that breaks the device, costs one row.

After an illegal access every later call of a CUDA process fails. So the process that measures is replaced after a
failure, and the one that plans and writes never touches the device.
"""

from __future__ import annotations

import importlib
import multiprocessing
import traceback
from multiprocessing.connection import Connection
from typing import Any

GOING = 10  # seconds that an ended process may take to leave: a driver may hold it


class Failed(Exception):
    """What came back in place of a result: one line, and all that is known."""

    def __init__(self, line: str, more: str = "") -> None:
        super().__init__(line)
        self.more = more


class Worker:
    """Calls functions, each given as "module.name", in another process. It starts with the first call."""

    def __init__(self) -> None:
        self.process: Any = None
        self.pipe: Any = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *raised: object) -> None:
        self.stop()

    def ask(self, function: str, *args: Any, limit: float) -> Any:
        """The result of a function. Raises Failed, and ends the process, if there is no result after `limit` s."""
        if self.process is None:
            self._start()
        try:
            self.pipe.send((function, args))
            if not self.pipe.poll(limit):
                raise Failed(f"stopped after {limit:.0f} s")
            done, value, more = self.pipe.recv()
        except Failed:
            self.stop()
            raise
        except (EOFError, OSError):
            raise Failed(f"its process ended with code {self.stop()}") from None
        if not done:
            self.stop()  # what it has on the device is lost, too
            raise Failed(value, more)
        return value

    def stop(self) -> int | None:
        """End the process; its exit code if it ended before."""
        if self.process is None:
            return None
        self.pipe.close()
        self.process.join(0.5)
        code = self.process.exitcode
        if code is None:
            self.process.kill()
            self.process.join(GOING)
        self.process = self.pipe = None
        return code

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # a forked process could not use CUDA
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()


def serve(pipe: Connection) -> None:
    """Answer calls until the other side is gone."""
    while True:
        try:
            function, args = pipe.recv()
        except EOFError:
            return
        try:
            module, _, name = function.rpartition(".")
            answer = (True, getattr(importlib.import_module(module), name)(*args), "")
        except Exception as error:  # the other side must hear of it, whatever it is
            line = (str(error).strip().splitlines() or [""])[0]
            answer = (False, f"{type(error).__name__}: {line}", traceback.format_exc())
        try:
            pipe.send(answer)
        except OSError:
            return
