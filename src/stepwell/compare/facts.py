"""Facts of a comparison besides its trials: its folder, digests of the task, the machine, and heights for the plot."""

from __future__ import annotations

import hashlib
import json
import math
import platform
from pathlib import Path
from typing import TYPE_CHECKING

from stepwell import __version__
from stepwell.compare.ahead import available_cores
from stepwell.curves import Heights
from stepwell.errors import UsageError, printable, shown

if TYPE_CHECKING:
    from stepwell.compare.function import Function
    from stepwell.compare.script import Script
    from stepwell.tasks import Surface, Task


def folder_of(name: str) -> Path:
    """The folder of a task's run: inside `runs`, for any name of the task."""
    inside = Path(name)
    if inside.is_absolute() or inside.drive or ".." in inside.parts or not inside.parts or "\\" in name:
        raise UsageError(
            f"compare: the task is called {shown(name)}, which is not a folder name inside runs; "
            "rename the task, or give the folder of the run: --out FOLDER"
        )
    return Path("runs") / inside


def digest_of(problem: Task | Script | Function, name: str) -> str:
    """What a task's file, data or source is told by. Of a command: the files that it names, and where its metric is."""
    from stepwell.compare.function import Function
    from stepwell.compare.script import Script
    from stepwell.tasks import LOCAL, TABLE

    if isinstance(problem, Function):
        return problem.digest
    if isinstance(problem, Script):
        return problem.digest
    plain = name.partition(":")[0]
    return facts_digest(problem) if plain in TABLE or plain in LOCAL else digest(Path(plain))


def digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise UsageError(f"cannot read {printable(str(path))[:200]}: {error.strerror or error}") from None


def facts_digest(problem: Task) -> str:
    """A digest of what a task that is built in says about its data and model."""
    told = [problem.family, problem.metric.name, problem.batch_size, sorted(problem.about.items())]
    return hashlib.sha256(json.dumps(told, default=str).encode("utf-8", "backslashreplace")).hexdigest()[:16]


def heights(surface: Surface | None, points: int = 81) -> Heights | None:
    """The surface of a two-parameter task on a grid, as plain numbers."""
    if surface is None:
        return None
    import torch

    (left, right), (bottom, top) = surface.x, surface.y
    x, y = torch.linspace(left, right, points), torch.linspace(bottom, top, points)
    z = surface.height(x[None, :], y[:, None])
    return Heights(
        x=[round(value, 5) for value in x.tolist()],
        y=[round(value, 5) for value in y.tolist()],
        z=[[float(f"{value:.5g}") if math.isfinite(value) else None for value in row] for row in z.tolist()],
        points=tuple(surface.minima),
        log=surface.log,
    )


def machine(jobs: int, threads: int) -> dict[str, str]:
    """Facts of the machine: versions, processor, cores, workers. The user and the host are not named."""
    import numpy
    import torch

    facts = {
        "stepwell": __version__,
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "Python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": str(available_cores()),
        "workers": f"{jobs}, {threads} torch thread(s) each",
    }
    if torch.cuda.is_available():
        facts["GPU"] = torch.cuda.get_device_name()
    return facts


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
