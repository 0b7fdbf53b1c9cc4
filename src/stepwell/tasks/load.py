"""A user's own task: a Python file that defines a `Task`."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from stepwell.errors import UsageError, nearest
from stepwell.tasks.task import Task, last_line, probe


def load(path: Path, name: str = "task") -> Task:
    """The `Task` called `name` in the Python file at `path`, probed with one batch.

    The file's folder is added to the end of `sys.path`, so that the file may import its neighbours.
    Raises UsageError, in one line, if there is no such file, if importing it fails (with the last line of the
    exception), if the name is missing or is no Task, or if the probe finds a fault.
    """
    if not path.is_file():
        raise UsageError(f"task file '{path}' {'is not a file' if path.exists() else 'does not exist'}")
    if path.suffix != ".py":
        raise UsageError(f"task file '{path}' is not a Python file: its name must end in .py")
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
        raise UsageError(f"task file '{path}' does not import: {last_line(error)}") from error
    except SystemExit as error:
        raise UsageError(f"task file '{path}' does not import: it calls sys.exit({error.code!r})") from error
    if not hasattr(module, name):
        tasks = [known for known, value in vars(module).items() if isinstance(value, Task)]
        hint = nearest(name, tasks) if tasks else f"write {name} = stepwell.tasks.Task(...)"
        raise UsageError(f"task file '{path}' defines no '{name}': {hint}")
    task = getattr(module, name)
    if not isinstance(task, Task):
        raise UsageError(f"'{name}' in '{path}' is a {type(task).__name__}; a stepwell.tasks.Task is needed")
    probe(task)
    return task
