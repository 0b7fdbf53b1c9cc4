"""Small real training problems, for `stepwell compare`, the doctor's tests and the examples.

>>> task = find("rosenbrock")
>>> task.steps
500
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from stepwell.arguments import text
from stepwell.errors import UsageError, nearest, shown
from stepwell.tasks.load import is_file, load
from stepwell.tasks.task import Batch, Metric, Surface, Task, probe

__all__ = ["TABLE", "Batch", "Metric", "Surface", "Task", "find", "load", "probe"]

# task name -> the file that defines it as `task`: the one line that a new task adds
TABLE = {
    "digits": "digits",
    "bytes": "stdlib_bytes",
    "rosenbrock": "rosenbrock",
    "rastrigin": "rastrigin",
    "ravine": "ravine",
}


def find(name_or_path: str) -> Task:
    """The task of that name, or the task that a Python file defines.

    `"digits"` is built in; `"my_task.py"` and `"my_task.py:task"` load a user's file (the default name after the colon
    is `task`), which is tested with one batch. Raises UsageError for an unknown name, with the nearest known name, and
    for a fault in the file.
    """
    name_or_path = text("tasks.find", "task", name_or_path, "the name of a task, or a file as my_task.py:task")
    if name_or_path in TABLE:
        return import_module(f"stepwell.tasks.{TABLE[name_or_path]}").task
    path, _, name = name_or_path.partition(":")
    if path.endswith(".py") or ":" in name_or_path or "/" in name_or_path or is_file(Path(path)):
        return load(Path(path), name or "task")
    raise UsageError(
        f"unknown task {shown(name_or_path)}: {nearest(name_or_path, TABLE)}; a file is given as "
        "path/to/my_task.py:task"
    )
