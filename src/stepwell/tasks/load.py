"""A user's own task: a Python file that defines a `Task`."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from stepwell import arguments
from stepwell.errors import UsageError, nearest, printable, shown
from stepwell.tasks.task import Task, last_line, probe


def load(path: Path, name: str = "task") -> Task:
    """The `Task` called `name` in the Python file at `path`, tested with one batch.

    The file's folder is added to the end of `sys.path`, so that the file may import modules next to it.
    Raises UsageError, in one line, if there is no such file, if importing it fails (with the last line of the
    exception), if the name is missing or is not a Task, or if the test with one batch finds a fault.
    """
    name = arguments.text("tasks.load", "name", name)
    said, held = _imported(path)
    if name not in held:
        tasks = [known for known, value in held.items() if isinstance(value, Task)]
        hint = nearest(name, tasks) if tasks else f"write {printable(name)[:_NAME]} = stepwell.tasks.Task(...)"
        raise UsageError(f"task file '{said}' defines no '{printable(name)[:_NAME]}': {hint}")
    task = held[name]
    if not isinstance(task, Task):
        raise UsageError(
            f"'{printable(name)[:_NAME]}' in '{said}' is a {type(task).__name__}; it must be a stepwell.tasks.Task"
        )
    probe(task)
    return task


_NAME = 100  # characters of a name in a message
MAKERS = ("task", "make_model", "model")  # the names that are looked for where none is given


def model(source: str) -> nn.Module:
    """The model that a Python file defines or makes: `"module.py:make_model"`.

    The name is that of a module, of a class or function that makes a module (called without arguments, or with the seed
    0), or of a Task. Default names: task, make_model or model.

    Raises UsageError, in one line, if the file or name does not exist, if a call fails, or if the result is not a
    module.
    """
    source = arguments.text("tasks.load", "model", source)
    file, _, name = source.partition(":")
    said, held = _imported(Path(file))
    name = name or next((known for known in MAKERS if known in held), MAKERS[1])
    if name not in held:
        made = [known for known, value in held.items() if isinstance(value, (Task, nn.Module)) or callable(value)]
        raise UsageError(
            f"'{said}' defines no '{printable(name)[:_NAME]}': {nearest(name, made) if made else 'it is empty'}"
        )
    found = held[name]
    try:
        if isinstance(found, Task):
            found = found.build(0)
        elif not isinstance(found, nn.Module) and callable(found):
            found = found() if _takes_nothing(found) else found(0)
    except Exception as error:
        raise UsageError(f"'{printable(name)[:_NAME]}' in '{said}' fails: {last_line(error)}") from error
    except SystemExit as error:
        raise UsageError(f"'{printable(name)[:_NAME]}' in '{said}' calls sys.exit({shown(error.code)})") from error
    if not isinstance(found, nn.Module):
        raise UsageError(
            f"'{printable(name)[:_NAME]}' in '{said}' is or makes a {type(found).__name__}; it must be a "
            "torch.nn.Module"
        )
    return found


def _takes_nothing(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind()
    except TypeError:
        return False
    except ValueError:  # of a built-in, which says nothing of its arguments
        return True
    return True


def _imported(path: Path) -> tuple[str, dict[str, Any]]:
    """The name of the file for messages, and the definitions in the file."""
    path = arguments.path("tasks.load", "path", path)
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
        raise UsageError(f"task file '{said}' cannot be imported: {last_line(error)}") from error
    except SystemExit as error:
        raise UsageError(f"task file '{said}' cannot be imported: it calls sys.exit({shown(error.code)})") from error
    return said, vars(module)


def is_file(path: Path) -> bool:
    """Whether the path is a regular file; False for an impossible path (too long, with a null character)."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False
