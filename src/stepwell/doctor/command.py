"""`stepwell doctor`: what a recorded run says, and what to do about a symptom."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stepwell.errors import UsageError, loaded, printable
from stepwell.terminal import DONE, FAILED, require, say, width

if TYPE_CHECKING:
    from stepwell.doctor.run import Run


def doctor(
    runs: Annotated[
        list[str] | None, typer.Argument(help="The journal of a run, as run.jsonl, or two journals to compare.")
    ] = None,
    symptom: Annotated[str | None, typer.Option(help='Explain a symptom without a run: "loss is nan".')] = None,
    optimizer: Annotated[str | None, typer.Option(help="With --symptom: the name of the optimizer.")] = None,
    lr: Annotated[float | None, typer.Option(help="With --symptom: the learning rate.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="With --symptom: the batch size.")] = None,
    precision: Annotated[str | None, typer.Option(help="With --symptom: fp32, bf16 or fp16.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the run until its end or Ctrl-C.")] = False,
    report: Annotated[str | None, typer.Option(help="Also write a page: out.html.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Explain what is wrong with a training run, from its journal.

    The run may still be going. Two journals are compared at equal steps.

    The exit code is 1 if there is an error or a warning, else 0.
    """
    paths = runs or []
    details = {"optimizer": optimizer, "lr": lr, "batch_size": batch_size, "precision": precision}
    _check(paths, symptom, details, watch, report, as_json)
    if symptom is not None:
        answer = loaded("stepwell.doctor.symptoms", "ask")(symptom, **details)
        print(json.dumps(answer.as_dict(), indent=1) if as_json else answer.text())
        return DONE
    if report is not None:
        require("an HTML report", "plotly", "jinja2")
    if len(paths) == 2:
        return _compared(paths, as_json)
    run = _watched(paths[0]) if watch else _read(paths[0])
    page = None if report is None else _page(run, report)
    if as_json:
        from stepwell.doctor.figures import as_json as data

        _print_json(data(run))
    else:
        from stepwell.doctor.figures import as_text, counted
        from stepwell.doctor.summary import headline

        print(f"{headline(run)}\n{counted(run)}" if watch else as_text(run))
        if page is not None:
            print(f"report: {page}")
    return _code(run)


def _check(
    paths: list[str], symptom: str | None, details: dict[str, Any], watch: bool, report: str | None, as_json: bool
) -> None:
    """Raise UsageError for options that do not go together."""
    if symptom is not None and (paths or watch or report is not None):
        raise UsageError("doctor: --symptom explains a symptom without a run: leave out journals, --watch and --report")
    if symptom is not None:
        return
    given = [f"--{name.replace('_', '-')}" for name, value in details.items() if value is not None]
    if given:
        raise UsageError(f"doctor: {given[0]} describes a run for --symptom: give --symptom, or leave out {given[0]}")
    if not paths:
        raise UsageError('doctor: nothing to look at; give the journal of a run, as run.jsonl, or --symptom "..."')
    if len(paths) > 2:
        raise UsageError(f"doctor: {len(paths)} journals are given; give one, or two to compare")
    if len(paths) == 2 and (watch or report is not None):
        raise UsageError("doctor: --watch and --report take one journal; leave out the second one")
    if watch and as_json:
        raise UsageError("doctor: --watch prints text as the run goes: leave out --json")


def _read(path: str) -> Run:
    from stepwell.doctor.reading import read

    return read(path)


def _code(*runs: Run) -> int:
    """1 for an error or a warning, else 0."""
    return FAILED if any(finding.severity != "note" for run in runs for _, finding in run.findings) else DONE


def _page(run: Run, target: str) -> str:
    from stepwell.doctor.page import write

    return printable(str(write(run, target)))


def _compared(paths: list[str], as_json: bool) -> int:
    from stepwell.doctor.difference import as_json as data
    from stepwell.doctor.difference import as_text, difference

    left, right = _read(paths[0]), _read(paths[1])
    found = difference(left, right)
    if as_json:
        _print_json(data(found))
    else:
        print(as_text(found))
    return _code(left, right)


def _watched(path: str) -> Run:
    """Follow a run until it has ended or Ctrl-C is pressed."""
    from stepwell.doctor.reading import Reader
    from stepwell.doctor.watching import Lines, watch

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    reader = Reader(path)
    lines = Lines(write, sys.stdout.isatty(), width())
    try:
        watch(reader, lines)
    except KeyboardInterrupt:
        lines.end()
        say("the run is not watched any more; it is not affected")
    lines.end()
    reader.more()
    return reader.run()


def _print_json(data: dict[str, Any]) -> None:
    from stepwell.doctor.journal import strict

    print(json.dumps(strict(data), indent=1, allow_nan=False))
