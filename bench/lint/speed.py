"""How fast the linter is: files per second, one file start to finish, and a second run over unchanged files."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

COPIES = 200  # files of a measurement, at least


def report(folder: Path) -> str:
    sources = [path.read_text(encoding="utf-8") for path in sorted(folder.rglob("*.py"))]
    if not sources:
        raise SystemExit(f"{folder} holds no Python file")
    many = [sources[index % len(sources)] for index in range(COPIES)]
    lines = sum(source.count("\n") for source in many) / len(many)
    found = [
        f"{processes} process(es): {_rate(many, processes):.0f} files of {lines:.0f} lines per second"
        for processes in (1, 2)
    ]
    found.append(f"one process, by its processor time: {_rate(many, 1, time.process_time):.0f} files per second")
    if importlib.util.find_spec("stepwell.lint.__main__") is None:
        return "\n".join([*found, "python -m stepwell.lint is missing: start to finish and the cache are not measured"])
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        two_hundred = min(sources, key=lambda source: abs(source.count("\n") - 200))
        (place / "one").mkdir()
        (place / "one" / "script.py").write_text(two_hundred, encoding="utf-8")
        times = sorted(_command(place / "one", "--no-cache") for _ in range(5))
        found.append(f"one file of {two_hundred.count(chr(10))} lines, start to finish: {times[2]:.3f} s")
        (place / "many").mkdir()
        for index, source in enumerate(many):  # no two alike: the cache goes by content
            (place / "many" / f"script_{index}.py").write_text(f"{source}\n# {index}\n", encoding="utf-8")
        first, second = _command(place / "many"), min(_command(place / "many") for _ in range(3))
        found.append(
            f"{COPIES} files: first run {first:.2f} s, second run {second:.2f} s, {first / second:.1f} times faster"
        )
        shutil.rmtree(place / "many")
    return "\n".join(found)


def lint(source: str) -> int:
    """All checks on one source."""
    from stepwell.lint.analysis import read
    from stepwell.lint.checks import load

    script = read(source, "script.py")
    return sum(1 for module in load() for _ in module.find(script))


def _rate(sources: list[str], processes: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Files per second; other programs on the machine slow the clock on the wall down, not that of the processor."""
    if processes == 1:
        lint(sources[0])
        start = clock()
        for source in sources:
            lint(source)
        return len(sources) / (clock() - start)
    with ProcessPoolExecutor(processes) as pool:
        list(pool.map(lint, sources[: 4 * processes]))  # imports
        start = time.perf_counter()
        list(pool.map(lint, sources, chunksize=8))
        return len(sources) / (time.perf_counter() - start)


def _command(folder: Path, *options: str) -> float:
    """The seconds that the command takes in a fresh process, run in the folder that it reads."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "stepwell.lint", ".", *options], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, 1):
        raise SystemExit(f"python -m stepwell.lint failed:\n{done.stderr}")
    return time.perf_counter() - start
