"""The process that writes a file, so that another process can tell whether the writer is still running."""

from __future__ import annotations

import os
import socket
import zlib
from functools import cache
from pathlib import Path


@cache
def host() -> str:
    """An id of this boot of the machine and of its PID namespace, eight hexadecimal digits."""
    parts = [socket.gethostname()]
    for read in (lambda: Path("/proc/sys/kernel/random/boot_id").read_text(), lambda: os.readlink("/proc/self/ns/pid")):
        try:
            parts.append(read())
        except OSError:  # no Linux
            parts.append("")
    return f"{zlib.crc32('|'.join(parts).encode()):08x}"


def started(process: int) -> str:
    """The start time of a process, in ticks since boot; "0" if the system does not report it."""
    try:
        # the name, in brackets, may hold anything; 20 fields stand between its end and the time
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return "0"


def mark() -> str:
    """This process in a file name: host-number-start."""
    return f"{host()}-{os.getpid()}-{started(os.getpid())}"


def ended(given: str) -> bool | None:
    """Whether the process of a mark has ended; None if this machine cannot tell."""
    try:
        where, number, begun = given.split("-")
        process = int(number)
    except ValueError:
        return None
    if where != host():
        return None
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # of another user, or no such system call
        return None if started(process) == "0" else started(process) != begun
    return begun != "0" and started(process) != begun
