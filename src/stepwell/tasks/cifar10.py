"""CIFAR-10 from a local folder: `cifar10:/path/to/cifar-10-batches-py`, the official batches, Python or binary version.

The five training batches are trained on, with random crops of the image padded by 4 and random mirroring; the first
2000 images of the test batch are the held-out images. The network is small, so that one CPU thread trains it in about a
minute. A pickle can run code when it is read: the reader here refuses everything but arrays and plain values.

Reference: A. Krizhevsky, Learning multiple layers of features from tiny images, 2009.
"""

from __future__ import annotations

import pickle
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from stepwell.tasks import augment
from stepwell.tasks.given_path import contents, digest, given_path, refused
from stepwell.tasks.task import Task

SUMMARY = "CIFAR-10 from a local folder, a small residual network with batch norm"
BATCH = 64
PAD = 4
EVALUATED = 2000
ROW = 1 + 3 * 32 * 32  # bytes of an image in the binary version: its label and its pixels
BATCHES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
EXPECTED = "the official batches, data_batch_1 to 5 and test_batch (or data_batch_1.bin to test_batch.bin)"


class _Arrays(pickle.Unpickler):
    """Reads arrays and plain values, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return str.encode
        if name in ("ndarray", "dtype") and module == "numpy":
            return getattr(np, name)
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return np.empty(0).__reduce__()[0]
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed")


def read(path: Path) -> tuple[Tensor, Tensor]:
    """The images [n, 3, 32, 32], uint8, and the labels [n] of one batch. Raises UsageError."""

    def fault(found: str) -> Exception:
        return refused("cifar10", path, found, "a batch of CIFAR-10 with images of 3072 bytes and labels 0 to 9")

    if path.suffix == ".bin":
        raw = path.read_bytes()
        if not raw or len(raw) % ROW:
            raise fault(f"has {len(raw)} bytes, which is not a multiple of {ROW}")
        rows = torch.frombuffer(bytearray(raw), dtype=torch.uint8).view(-1, ROW)
        pixels, labels = rows[:, 1:], rows[:, 0].long()
    else:
        try:
            with path.open("rb") as file:
                held = _Arrays(file, encoding="bytes").load()
            pixels = torch.from_numpy(np.array(held[b"data"], dtype=np.uint8, copy=True))
            labels = torch.tensor(held[b"labels"], dtype=torch.int64)
        except Exception as error:  # a damaged pickle may raise anything
            raise fault(f"cannot be read: {type(error).__name__}") from None
    if pixels.ndim != 2 or pixels.shape[1] != ROW - 1 or labels.shape != pixels.shape[:1] or not len(labels):
        raise fault(f"holds data of shape {tuple(pixels.shape)} and {labels.numel()} labels")
    if labels.min() < 0 or labels.max() > 9:
        raise fault(f"holds the labels {int(labels.min())} to {int(labels.max())}")
    return pixels.reshape(-1, 3, 32, 32), labels


def files(path: Path) -> list[Path]:
    """The six batches in a folder, or in the folder that the official archive makes inside it. Raises UsageError."""
    if not path.is_dir():
        raise refused("cifar10", path, "is not a folder", f"a folder with {EXPECTED}")
    for folder in (path, path / "cifar-10-batches-py", path / "cifar-10-batches-bin"):
        for ending in ("", ".bin"):
            found = [folder / (name + ending) for name in BATCHES]
            if all(file.is_file() for file in found):
                return found
    raise refused("cifar10", path, contents(path), EXPECTED)


@lru_cache(maxsize=2)
def images(path: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images, padded [n, 3, 40, 40], with labels; held-out images [m, 3, 32, 32] with labels; uint8, int64."""
    *train, (test, test_labels) = map(read, files(path))
    x = functional.pad(torch.cat([pixels for pixels, _ in train]), (PAD,) * 4)
    return x, torch.cat([labels for _, labels in train]), test[:EVALUATED], test_labels[:EVALUATED]


def open_task(written: str) -> Task:
    """The task over the batches in a folder. Raises UsageError."""
    path = given_path("cifar10", written)
    about = {
        "data": f"CIFAR-10 in {written}; the first {EVALUATED} test images are held out",
        "version of the data": digest(path, files(path)),
    }
    return augment.task(
        "cifar10", SUMMARY, 10, lambda: images(path), lambda x: x[:, :, PAD:-PAD, PAD:-PAD], BATCH, 2000, about
    )
