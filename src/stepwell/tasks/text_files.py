"""Your text: `text:/path/to/file.txt` or a folder of .txt files, read byte by byte by the transformer of `bytes`.

The last tenth of each file is held out. Files are read in the order of their paths; at most 20 MB of text are read.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from stepwell.tasks import stdlib_bytes
from stepwell.tasks.byte_windows import BATCH, CONTEXT, loss_over, next_byte_loss, random_windows
from stepwell.tasks.given_path import contents, digest, given_path, refused
from stepwell.tasks.task import Metric, Task

SUMMARY = "the next byte of a text of yours, a small transformer"
MOST = 20_000_000  # bytes of all files
LEAST = 2000  # bytes of all files: the held-out tenth must be longer than a window
EXPECTED = f"a text file, or a folder with .txt files, of at least {LEAST} bytes"


def files(path: Path) -> list[Path]:
    """The file, or the .txt files in the folder and in folders inside it. Raises UsageError."""
    found = [path]
    if path.is_dir():
        found = sorted(file for file in path.rglob("*.txt") if file.is_file() and not file.name.startswith("."))
        if not found:
            raise refused("text", path, contents(path), EXPECTED)
    elif not path.is_file():
        raise refused("text", path, "is neither a file nor a folder", EXPECTED)
    size = sum(file.stat().st_size for file in found)
    if size < LEAST:
        raise refused("text", path, f"has {size} bytes of text", EXPECTED)
    return found


@lru_cache(maxsize=2)
def texts(path: Path) -> tuple[Tensor, Tensor]:
    """The training text [n] and the held-out text [m], uint8."""
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    left = MOST
    for file in files(path):
        try:
            with file.open("rb") as opened:
                read = opened.read(left)
        except OSError as error:
            raise refused("text", file, f"cannot be read: {error.strerror}", EXPECTED) from None
        left -= len(read)
        cut = len(read) - len(read) // 10
        parts[0].append(read[:cut])
        parts[1].append(read[cut:])
    train, held_out = (torch.frombuffer(bytearray(b"\n".join(part)), dtype=torch.uint8) for part in parts)
    return train, held_out


def open_task(written: str) -> Task:
    """The task over a file or a folder. Raises UsageError."""
    path = given_path("text", written)
    found = files(path)
    root = path if path.is_dir() else path.parent
    return Task(
        name="text",
        summary=SUMMARY,
        family="transformer",
        model=stdlib_bytes.model,
        batches=lambda seed: random_windows(texts(path)[0], seed),
        loss=next_byte_loss,
        metric=Metric("held-out loss, nats per byte", "min", lambda model: loss_over(model, texts(path)[1])),
        steps=1000,
        batch_size=BATCH,
        about={
            "data": f"{written}: {len(found)} file{'s' * (len(found) > 1)}, the last tenth of each held out",
            "version of the data": digest(root, found),
            "context": f"{CONTEXT} bytes",
        },
    )
