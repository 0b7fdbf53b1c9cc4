"""`stepwell compare`: a comparison, its table and its report."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from stepwell.errors import UsageError, shown
from stepwell.terminal import DONE, INTERRUPTED, Told, require, say

if TYPE_CHECKING:
    from stepwell.compare import Result


def compare(
    task: Annotated[str, typer.Argument(help="A built-in task (see `stepwell tasks`) or my_task.py:task.")],
    optimizers: Annotated[
        str,
        typer.Option(
            help="Comma-separated names (see `stepwell optimizers`), with settings where one is compared with several: "
            "adamw,adamw[betas=(0.9,0.95),schedule=constant]."
        ),
    ] = "sgd,adamw,lion",
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
    from stepwell.compare.names import split
    from stepwell.compare.progress import suited
    from stepwell.compare.run import compare as run
    from stepwell.compare.storage import hidden
    from stepwell.optimizers.command import options

    result = run(
        task, split(optimizers), trials=trials, seeds=seeds, steps=steps, jobs=jobs, out=out, prune=prune,
        device=device,
        lr_ranges=ranges(lr_range or []), progress=suited(quiet),
        threads=threads, widen=widen, retry=retry, tune=split(tune), storage=storage,
        command=shlex.join(["stepwell", *map(hidden, sys.argv[1:])]),
        options=options(option or [], "compare searches lr; set its range with --lr-range {name}=low:high"),
    )  # fmt: skip
    return _hand_over(result, as_json)


def ranges(given: Sequence[str]) -> dict[str, tuple[float, float]]:
    """`["adamw=1e-4:1e-1"]` as a dict. Raises UsageError for any other form."""
    found = {}
    for text in given:
        name, _, span = text.partition("=")
        low, _, high = span.partition(":")
        try:
            found[name] = float(low), float(high)
        except ValueError:
            raise UsageError(f"--lr-range {shown(text)}; it must have the form adamw=1e-4:1e-1") from None
    return found


def _hand_over(result: Result, as_json: bool) -> int:
    """Write the report and results.json, print the table. Returns 130 for an interrupted comparison."""
    from stepwell import __version__, report
    from stepwell.compare.figures import sections
    from stepwell.compare.terminal import show
    from stepwell.files import write_whole

    data = json.dumps(result.to_json(), indent=1, allow_nan=False)  # all of it was checked before the training
    write_whole(result.folder / "results.json", data + "\n")
    page = report.write(
        result.folder / "report.html",
        f"Optimizers compared: {result.task['name']}",
        sections(result),
        lead=f"{', '.join(c.name for c in result.plan.contenders)} on {result.task['summary']}; "
        "equal tuning budgets, equal seeds, one schedule.",
        foot=f"stepwell {__version__}",
    )
    if as_json:
        print(data)
    elif result.outcomes:
        show(result)
        print(f"report: {page}")
    if not result.complete:
        say("interrupted; run the same command again to resume")
        return Told(INTERRUPTED)
    return DONE
