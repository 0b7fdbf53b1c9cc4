"""Real data without a download: scikit-learn's bundled sets and the source text of the standard library."""

from __future__ import annotations

import sysconfig
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from sklearn import datasets
from torch import Tensor

SPLIT_SEED = 0


def _split(x: np.ndarray, y: np.ndarray, train: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    order = np.random.default_rng(SPLIT_SEED).permutation(len(x))
    x, y = x[order], y[order]
    return tuple(torch.as_tensor(part.copy()) for part in (x[:train], y[:train], x[train:], y[train:]))


@lru_cache(maxsize=1)
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images [1200, 64] with grey values 0..16 and their labels [1200], then 597 held-out ones."""
    data = datasets.load_digits()
    return _split(data.data.astype(np.float32), data.target.astype(np.int64), 1200)


@lru_cache(maxsize=1)
def wine() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """13 raw measures of 118 wines of 3 kinds, and of 60 held-out wines."""
    data = datasets.load_wine()
    return _split(data.data.astype(np.float32), data.target.astype(np.int64), 118)


@lru_cache(maxsize=1)
def cancer() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """30 raw measures of 400 samples, label 0 or 1 (float), and of 169 held-out samples."""
    data = datasets.load_breast_cancer()
    return _split(data.data.astype(np.float32), data.target.astype(np.float32), 400)


@lru_cache(maxsize=1)
def diabetes() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """10 standardised measures of 320 patients, the progression 25..346 (float), and of 122 held-out patients."""
    data = datasets.load_diabetes()
    return _split((data.data * len(data.data) ** 0.5).astype(np.float32), data.target.astype(np.float32), 320)


@lru_cache(maxsize=1)
def source_bytes() -> tuple[Tensor, Tensor]:
    """The source text of some modules of the standard library as bytes (uint8): to train on, and held out."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    files = [path for path in sorted(folder.glob("*.py")) if path.stat().st_size > 1000][:60]
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    for number, path in enumerate(files):
        parts[number % 10 == 9].append(path.read_bytes()[:30_000])
    train, held_out = (torch.frombuffer(bytearray(b"\n".join(part)), dtype=torch.uint8) for part in parts)
    return train, held_out


def outcome(losses: list[float], before: float, after: float) -> dict[str, float]:
    """The figures of a run: its first and last training loss, and a validation metric before and after."""
    few = max(len(losses) // 10, 1)
    return {
        "first": sum(losses[:3]) / max(len(losses[:3]), 1),
        "last": sum(losses[-few:]) / few if losses else float("nan"),
        "val_before": before,
        "val": after,
    }
