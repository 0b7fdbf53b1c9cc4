"""A user's own task: a Python file that defines a `Task`."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from stepwell import arguments
from stepwell.errors import UsageError, nearest, printable, shown
from stepwell.tasks.task import Task, last_line, probe


def load(path: Path, name: str = "task") -> Task:
    """The `Task` called `name` in the Python file at `path`, probed with one batch.

    The file's folder is added to the end of `sys.path`, so that the file may import its neighbours.
    Raises UsageError, in one line, if there is no such file, if importing it fails (with the last line of the
    exception), if the name is missing or is no Task, or if the probe finds a fault.
    """
    path = arguments.path("tasks.load", "path", path)
    name = arguments.text("tasks.load", "name", name)
    said = printable(str(path))[:200]
    if not is_file(path):
        raise UsageError(f"task file '{said}' {'is not a file' if _is_there(path) else 'does not exist'}")
    if path.suffix != ".py":
        raise UsageError(f"task file '{said}' is not a Python file: its name must end in .py")
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)
    # A name of its own keeps a file called `random.py` from standing in for a real module.
    spec = importlib.util.spec_from_file_location(f"_stepwell_task_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickling look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UsageError(f"task file '{said}' does not import: {last_line(error)}") from error
    except SystemExit as error:
        raise UsageError(f"task file '{said}' does not import: it calls sys.exit({shown(error.code)})") from error
    if name not in vars(module):
        tasks = [known for known, value in vars(module).items() if isinstance(value, Task)]
        hint = nearest(name, tasks) if tasks else f"write {printable(name)} = stepwell.tasks.Task(...)"
        raise UsageError(f"task file '{said}' defines no '{printable(name)}': {hint}")
    task = vars(module)[name]
    if not isinstance(task, Task):
        raise UsageError(f"'{name}' in '{said}' is a {type(task).__name__}; a stepwell.tasks.Task is needed")
    probe(task)
    return task


def is_file(path: Path) -> bool:
    """Whether it is a regular file; False for a path that no file can have (too long, with a null character)."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False
