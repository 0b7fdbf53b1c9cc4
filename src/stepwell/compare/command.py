"""`stepwell compare` and `stepwell report`: a comparison, its table and its report, and two of them side by side."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stepwell.compare.ahead import available_cores, begin, threads_per_worker
from stepwell.errors import UsageError, shown
from stepwell.terminal import DONE, INTERRUPTED, Told, require, say

if TYPE_CHECKING:
    from stepwell.compare import Result
    from stepwell.compare.several import Results


def compare(
    task: Annotated[
        str,
        typer.Argument(
            help="A built-in task (see `stepwell tasks`), my_task.py:task, or a command in quotes: "
            "'python train.py --lr {lr} --seed {seed} --optimizer {optimizer}'. Several tasks: digits,bytes."
        ),
    ],
    optimizers: Annotated[
        str,
        typer.Option(
            help="Comma-separated names (see `stepwell optimizers`), with settings where one is compared with several: "
            "adamw,adamw[betas=(0.9,0.95),schedule=constant]."
        ),
    ] = "sgd,adamw,lion",
    data: Annotated[
        str | None, typer.Option(help="The folder or file of a task with local data: images, cifar10, text.")
    ] = None,
    trials: Annotated[
        int, typer.Option(help="Values to try of each hyperparameter that is tuned, for each optimizer.")
    ] = 8,
    seeds: Annotated[
        int, typer.Option(help="Final runs of each optimizer at its best learning rate, one per seed.")
    ] = 3,
    steps: Annotated[int | None, typer.Option(help="Steps in a run; the task's default if not given.")] = None,
    jobs: Annotated[int | None, typer.Option(help="Worker processes; one per two cores if not given.")] = None,
    threads: Annotated[
        int | None,
        typer.Option(help="Threads of each worker; OMP_NUM_THREADS, or the cores divided by --jobs, if not given."),
    ] = None,
    out: Annotated[str | None, typer.Option(help="Folder for the results; runs/TASK if not given.")] = None,
    lr_range: Annotated[
        list[str] | None, typer.Option(help="Begin with other learning rates: adamw=1e-4:1e-1. May be repeated.")
    ] = None,
    widen: Annotated[
        bool, typer.Option(help="Widen a range where its lowest or highest value is the best, within the budget.")
    ] = True,
    tune: Annotated[
        str, typer.Option(help="What to tune, each with --trials values: lr,betas,decay,warmup (momentum for betas).")
    ] = "lr",
    option: Annotated[
        list[str] | None, typer.Option(help="Set an argument: adamw.weight_decay=0.1. May be repeated.")
    ] = None,
    prune: Annotated[bool, typer.Option(help="Stop hopeless trials from the middle of a run on.")] = True,
    retry: Annotated[bool, typer.Option("--retry", help="Run trials again that ended in an exception.")] = False,
    storage: Annotated[
        str | None,
        typer.Option(
            envvar="STEPWELL_STORAGE",
            show_envvar=False,
            help="Share the comparison with other machines that run the same command: postgresql://user@host/database, "
            "sqlite:///file.db, or journal:///shared/file.log. STEPWELL_STORAGE if not given.",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="Device: cpu or cuda.")] = "cpu",
    direction: Annotated[
        str | None, typer.Option(help="Of the metric of a command: max if higher is better, min if lower is.")
    ] = None,
    metric: Annotated[str, typer.Option(help="Of a command: the key in its JSON file, or a name.")] = "",
    metric_from_json: Annotated[
        str | None,
        typer.Option(help="Of a command: the JSON file that it writes; without it, the last number of the last line."),
    ] = None,
    target: Annotated[float | None, typer.Option(help="Of a command: the value that counts as solved.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print results.json instead of the table.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> int:
    """Compare optimizers on a task, fairly.

    Each gets the same number of trials and seeds. Prints a table and writes report.html.

    Press Ctrl-C at any time: finished trials are kept, and running the same command again resumes. More optimizers,
    trials or seeds in the same folder use what is there, and several commands on one folder share its trials.
    """
    require("stepwell compare", "optuna", "rich")
    require("an HTML report", "plotly", "jinja2")
    if "{" not in task and (jobs is None or 1 <= jobs <= available_cores()):  # workers of a command need no torch
        workers = jobs or max(1, available_cores() // 2)
        begin(workers, threads or threads_per_worker(workers))
    from stepwell.compare.names import split
    from stepwell.compare.progress import suited
    from stepwell.compare.run import compare as run
    from stepwell.compare.script import is_command
    from stepwell.compare.storage import hidden
    from stepwell.optimizers.command import options

    if data is not None:
        if not task.isidentifier():
            raise UsageError(f"--data {shown(data)} is for one task with local data, as images, cifar10 or text")
        task = f"{task}:{data}"
    settings: dict[str, Any] = {
        "trials": trials, "seeds": seeds, "steps": steps, "jobs": jobs, "prune": prune, "device": device,
        "lr_ranges": ranges(lr_range or []), "threads": threads, "widen": widen, "retry": retry, "tune": split(tune),
        "storage": storage,
        "command": shlex.join(["stepwell", *map(hidden, sys.argv[1:])]), "progress": suited(quiet),
        "options": options(option or [], "compare searches lr; set its range with --lr-range {name}=low:high"),
    }  # fmt: skip
    several = [] if is_command(task) else split(task)
    if len(several) > 1:
        for name, value in (("direction", direction), ("metric", metric or None), ("target", target),
                            ("metric-from-json", metric_from_json)):  # fmt: skip
            if value is not None:
                raise UsageError(f"--{name} is for a command; each task has its own")
        from stepwell.compare.several import compare_tasks

        each = compare_tasks(several, split(optimizers), out=out, ended=lambda one: _told(as_json, one), **settings)
        return _hand_over_all(each, as_json)
    result = run(
        task, split(optimizers), out=out, direction=direction, metric=metric,
        metric_from_json=metric_from_json, target=target, **settings,
    )  # fmt: skip
    return _hand_over(result, as_json)


def ranges(given: Sequence[str]) -> dict[str, tuple[float, float]]:
    """`["adamw=1e-4:1e-1"]` as a dict. Raises UsageError for any other form."""
    found = {}
    for text in given:
        name, _, span = text.rpartition("=")  # settings in the name have "=", too: adam[eps=1.0]=0.3:3
        low, _, high = span.partition(":")
        try:
            found[name] = float(low), float(high)
        except ValueError:
            raise UsageError(f"--lr-range {shown(text)}; it must have the form adamw=1e-4:1e-1") from None
    return found


def _hand_over(result: Result, as_json: bool) -> int:
    """Write the report and results.json, print the table. Returns 130 for an interrupted comparison."""
    data = _written(as_json, result)
    if as_json:
        print(data)
    return _ended(result.complete)


def _hand_over_all(results: Results, as_json: bool) -> int:
    """Write the page over all tasks, and print its table."""
    from stepwell.files import write_whole

    data = json.dumps(results.to_json(), indent=1, allow_nan=False)
    write_whole(results.folder / "results.json", data + "\n")
    page = results.report()
    print(data if as_json else f"{results}\nreport: {page}")
    return _ended(results.complete)


def _told(as_json: bool, result: Result) -> None:
    _written(as_json, result)


def _written(as_json: bool, result: Result) -> str:
    """Write the files of one task, and print its table if no JSON is wanted. Returns the JSON."""
    from stepwell.compare.terminal import show
    from stepwell.files import write_whole

    data = json.dumps(result.to_json(), indent=1, allow_nan=False)  # all of it was checked before the training
    write_whole(result.folder / "results.json", data + "\n")
    page = result.report()
    if not as_json and result.outcomes:
        show(result)
        print(f"report: {page}")
    return data


def _ended(complete: bool) -> int:
    if complete:
        return DONE
    say("interrupted; run the same command again to resume")
    return Told(INTERRUPTED)


def report(
    one: Annotated[Path, typer.Argument(help="The folder of a comparison, or its results.json.")],
    other: Annotated[Path, typer.Argument(help="The folder of another one.")],
    out: Annotated[Path, typer.Option(help="The page.")] = Path("side-by-side.html"),
) -> int:
    """Put two comparisons side by side: their scores, learning curves and what differs in their settings."""
    require("an HTML report", "plotly", "jinja2")
    from stepwell import __version__
    from stepwell import report as pages
    from stepwell.compare.side import load, sections, summary, table

    results = load(one), load(other)
    names = (str(one), str(other)) if one.name == other.name else (one.name, other.name)
    if names[0] == names[1]:
        raise UsageError(f"stepwell report: {one} is given twice")
    try:
        page = pages.write(
            out, f"{names[0]} and {names[1]}", sections(*results, names), foot=f"stepwell {__version__}",
            lead=f"{results[0]['task']['name']} and {results[1]['task']['name']}, side by side.",
        )  # fmt: skip
        said = f"{table(*results, names).text()}\n{summary(*results, names)}"
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"stepwell report: results.json is damaged: {type(error).__name__} {error}") from None
    print(f"{said}\nreport: {page}")
    return DONE
