"""The label of a checkpoint file, which names its owner: a comment at the end of the zip file."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

_END = b"PK\x05\x06"  # of a zip, followed by 16 bytes and the length of its comment


def read_label(path: Path) -> dict[str, Any] | None:
    """The owner of a file, or None if the file has no label."""
    try:
        with open(path, "rb") as file:
            comment = _comment(file)
        label = json.loads(comment) if comment else None
    except (OSError, ValueError):
        return None
    fields = {"stepwell", "run", "name", "inode", "save", "time", "process"}
    if not isinstance(label, dict) or not fields <= label.keys():
        return None
    return label if isinstance(label["time"], int) and isinstance(label["process"], str) else None


def is_cut_short(path: Path) -> bool:
    """Whether the end of a zip file is shorter than declared."""
    with open(path, "rb") as file:
        return _comment(file) is None


def _comment(file: Any) -> bytes | None:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 4096))
    tail = file.read()
    at = tail.rfind(_END)
    if at < 0 or len(tail) < at + 22:
        return None
    length = int.from_bytes(tail[at + 20 : at + 22], "little")
    return tail[at + 22 :] if len(tail) == at + 22 + length else None


def write_label(file: Any, label: dict[str, Any]) -> None:
    text = json.dumps(label).encode()
    file.seek(-22, os.SEEK_END)
    if file.read(4) != _END:  # a format of torch.save without a place for it
        return
    file.seek(-2, os.SEEK_END)
    file.write(len(text).to_bytes(2, "little") + text)


def is_checkpoint(path: Path) -> bool:
    """Whether step.save of an earlier version wrote this file without a label."""
    try:
        with zipfile.ZipFile(path) as file:
            pickles = [name for name in file.namelist() if name.endswith("/data.pkl")]
            return len(pickles) == 1 and b"stepwell.step" in file.read(pickles[0])
    except (OSError, ValueError, zipfile.BadZipFile, RuntimeError):
        return False
