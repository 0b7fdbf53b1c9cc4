"""What is trained in a comparison: a task, a command, or a function."""

from __future__ import annotations

from typing import Any

from stepwell import arguments
from stepwell.compare.function import Function
from stepwell.compare.script import Script, is_command
from stepwell.errors import UsageError, shown
from stepwell.tasks import TABLE, Task, find, probe


def problem_of(
    task: Any,
    direction: Any,
    metric: Any,
    metric_from_json: Any,
    target: Any,
    steps: int | None,
) -> tuple[Task | Script | Function, str]:
    """What is trained, and its name in `run.json`. Raises UsageError for settings that belong to the task itself."""
    is_function = callable(task) and not isinstance(task, str)
    if not is_function and not (isinstance(task, str) and is_command(task)):
        for name, value in (("direction", direction), ("metric", metric or None), ("target", target),
                            ("metric_from_json", metric_from_json)):  # fmt: skip
            if value is not None:
                raise UsageError(f"compare: {name}={shown(value)} is for a command or a function; a task has its own")
        problem = find(task)
        if str(task).partition(":")[0] in TABLE:  # a user's file was probed when it was loaded; an extra may miss
            probe(problem)
        return problem, str(task)
    if direction not in ("min", "max"):
        raise UsageError(
            f"compare: direction={shown(direction)}; it must be 'max' if a higher metric is better, 'min' if a lower "
            "one is (--direction)"
        )
    metric = arguments.text("compare", "metric", metric, "a name") if metric else ""
    target = None if target is None else arguments.number("compare", "target", target)
    if is_function:
        if metric_from_json is not None:
            raise UsageError("compare: metric_from_json is for a command; a function returns the metric")
        made = Function(task, direction, metric, target, steps or 1000)
        return made, f"function {made.name}"
    file = None if metric_from_json is None else str(arguments.path("compare", "metric_from_json", metric_from_json))
    text = str(task).strip()
    return Script(text, direction, file, metric, target, steps or 1), text
