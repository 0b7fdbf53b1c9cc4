"""The facts of a visited machine. Only torch is imported here, so that whatever else is missing can be said."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch

from gpu_plan import How
from measure import machine


def facts(how: How) -> dict[str, Any]:
    """What the figures must carry with them; "problem": why nothing can be measured here, or None."""
    found: dict[str, Any] = {"problem": None}
    if how.device == "cuda" and not torch.cuda.is_available():
        return {"problem": f"torch {torch.__version__} sees no CUDA device; --device cpu rehearses without one"}
    needed = ("numpy", "numba", *(["triton"] if how.device == "cuda" or how.backend == "gpu" else []))
    for package in needed:
        try:
            found[package] = importlib.import_module(package).__version__
        except Exception as error:  # an import may fail in the package's own way
            return {"problem": f"{package} cannot be imported ({type(error).__name__}: {error}); stepwell needs it"}
    found |= machine(how.device) | {"commit": _answer_of("git", "rev-parse", "--short", "HEAD")}
    if how.device == "cuda":
        free, total = torch.cuda.mem_get_info()
        capability = ".".join(map(str, torch.cuda.get_device_capability()))
        found |= {
            # Triton compiles what starts a kernel with it
            "C compiler": next(filter(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang")), None),
            "driver": _answer_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
            "CUDA": torch.version.cuda,
            "capability": capability,
            "free GiB": round(free / 2**30, 1),
            "total GiB": round(total / 2**30, 1),
        }
    return found


def _answer_of(*command: str) -> str | None:
    """The first line that a program says; None where it is missing, fails or is slow."""
    root = Path(__file__).resolve().parents[1]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, cwd=root)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.strip().splitlines()
    return lines[0] if done.returncode == 0 and lines else None
