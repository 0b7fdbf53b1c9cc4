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

__all__ = ["LOCAL", "TABLE", "Batch", "Metric", "Surface", "Task", "find", "load", "probe"]

# task name -> the file that defines it as `task`: the one line that a new task adds
TABLE = {
    "digits": "digits",
    "bytes": "stdlib_bytes",
    "rosenbrock": "rosenbrock",
    "rastrigin": "rastrigin",
    "ravine": "ravine",
    "beale": "beale",
    "himmelblau": "himmelblau",
    "saddle": "saddle",
    "styblinski": "styblinski",
    "convex": "convex",
    "regression": "regression",
    "tabular": "tabular",
    "autoencoder": "autoencoder",
    "lstm": "lstm",
    "sparse": "sparse",
    "gan": "gan",
}

# tasks over data of the user's own, given as name:path -> the file whose `open_task(path)` makes the task
LOCAL = {
    "cifar10": "cifar10",
    "images": "image_folder",
    "text": "text_files",
}


def find(name_or_path: str) -> Task:
    """The task of that name, the task over local data, or the task that a Python file defines.

    `"digits"` is built in; `"images:/data/flowers"` trains on the images in that folder (see `LOCAL`); `"my_task.py"`
    and `"my_task.py:task"` load a user's file (the default name after the colon is `task`), which is tested with one
    batch. Raises UsageError for an unknown name, with the nearest known name, for data that is not as the task expects,
    and for a fault in the file.
    """
    name_or_path = text("tasks.find", "task", name_or_path, "the name of a task, or a file as my_task.py:task")
    if name_or_path in TABLE:
        return import_module(f"stepwell.tasks.{TABLE[name_or_path]}").task
    path, colon, name = name_or_path.partition(":")
    if path in LOCAL:
        if not name:
            raise UsageError(f"task '{path}' needs the path of its data: write {path}:/path/to/data")
        return import_module(f"stepwell.tasks.{LOCAL[path]}").open_task(name)
    if colon and path in TABLE:
        raise UsageError(f"task '{path}' has its own data and takes no path: write {path}")
    if path.endswith(".py") or ":" in name_or_path or "/" in name_or_path or is_file(Path(path)):
        return load(Path(path), name or "task")
    raise UsageError(
        f"unknown task {shown(name_or_path)}: {nearest(name_or_path, (*TABLE, *LOCAL))}; a file is given as "
        "path/to/my_task.py:task"
    )
