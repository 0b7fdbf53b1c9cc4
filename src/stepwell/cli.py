"""The `stepwell` command: a table of commands. Each command is defined in the `command.py` of its room, which is
imported when the command runs, so that `stepwell --help` is fast.

Exit codes: 0 done; 1 no result, or an error other than a usage error; 2 a usage error; 130 Ctrl-C.
Errors are one line on stderr; with STEPWELL_TRACEBACK=1 in the environment, the full traceback.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from stepwell.errors import TRAINING, MissingExtra, UsageError, shown
from stepwell.terminal import DONE, FAILED, INTERRUPTED, USAGE, Told, say

TRACEBACK = "STEPWELL_TRACEBACK"

# name: (module, one line of help)
COMMANDS = {
    "advise": ("stepwell.advisor.command", "Advise an optimizer, its settings and its schedule, with sources."),
    "compare": ("stepwell.compare.command", "Compare optimizers fairly on a task."),
    "doctor": ("stepwell.doctor.command", "Explain what is wrong with a training run, from its journal."),
    "find-lr": ("stepwell.finder.command", "Find the learning rate by a range test."),
    "findings": ("stepwell.findings.command", "List the codes that the tools report, or explain one."),
    "info": ("stepwell.engine.command", "Show versions, devices and available backends."),
    "optimizers": ("stepwell.optimizers.command", "List the optimizers with their usual learning rates."),
    "lint": ("stepwell.lint.command", "Find mistakes in training scripts before the run."),
    "plan": (
        "stepwell.groups.command",
        "Show the hyperparameters of each tensor of a model, and the memory of training.",
    ),
    "recipes": ("stepwell.advisor.command", "List published configurations, or show one as a recipe."),
    "report": ("stepwell.compare.command", "Put two comparisons side by side on one page."),
    "schedule": ("stepwell.schedules.command", "Draw a schedule of the learning rate."),
    "tasks": ("stepwell.tasks.command", "List the built-in tasks."),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The console entry point. Returns the exit code."""
    for stream in (sys.stdout, sys.stderr):  # one that knows few characters gets escapes for the others
        if callable(getattr(stream, "reconfigure", None)):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # asked in the line above
    try:
        given = list(sys.argv[1:] if arguments is None else arguments)
        if given[:1] == ["lint"]:  # it parses its own options: a commit hook installs neither typer nor torch
            from stepwell.lint.command import lint

            code = lint(given[1:])
        else:
            code = _app(given)(args=given, standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()  # at exit it would be too late to say why it failed
        if code == INTERRUPTED and not isinstance(code, Told):  # typer turns Ctrl-C into a code
            say("interrupted")
        return int(code) if isinstance(code, int) else DONE
    except BaseException as error:
        return _code_of(error)


def _app(given: Sequence[str] = ()) -> Any:
    from importlib.util import find_spec

    if find_spec("typer") is None:
        name = next((word for word in given if word in COMMANDS), "")
        raise MissingExtra("typer", "tools", f"stepwell {name}" if name else "every command but `stepwell lint`")
    from stepwell.commands import app

    return app(COMMANDS)


def _code_of(error: BaseException) -> int:
    """The exit code for an exception, and its message."""
    show, code = getattr(error, "show", None), getattr(error, "exit_code", None)
    if isinstance(error, UsageError):
        say(str(error))
        return USAGE
    if isinstance(error, ModuleNotFoundError) and error.name in TRAINING:
        say(str(MissingExtra(error.name, "train", "this command")))
        return USAGE
    if isinstance(error, BrokenPipeError) or isinstance(error.__context__, BrokenPipeError):
        _close_output()  # `stepwell tasks | head`: the reader has enough
        return DONE
    if isinstance(error, KeyboardInterrupt) or type(error).__name__ == "Abort":  # how click words Ctrl-C
        say("interrupted")
        return INTERRUPTED
    if callable(show) and isinstance(code, int):  # what typer refuses: an unknown option, a value that is no number
        show()
        return code
    if isinstance(error, SystemExit):
        say(f"the task's code calls sys.exit({shown(error.code)})")
    elif os.environ.get(TRACEBACK) or not isinstance(error, Exception):
        raise error
    elif isinstance(error, OSError) and error.strerror:
        say(f"{f'{error.filename}: ' if error.filename else ''}{error.strerror}")
        _close_output()  # a full disk: the rest of the output would fail again at exit
    else:
        say(f"{type(error).__name__}: {shown(str(error), 200)[1:-1]} ({TRACEBACK}=1 in the environment shows where)")
    return FAILED


def _close_output() -> None:
    with contextlib.suppress(OSError, ValueError):  # a stream of a test has no descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
