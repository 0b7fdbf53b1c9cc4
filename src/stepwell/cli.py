"""The `stepwell` command: one thin function per subcommand. What they do lives in the tools.

Nothing heavy is imported at the top, so that `stepwell --help` answers at once.
"""

# No `from __future__ import annotations` here: typer reads the annotations, and they name a lazily imported module.

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any

from stepwell.errors import MissingExtra, UsageError, printable, shown, unknown

if TYPE_CHECKING:
    from stepwell.compare import Result

# exit codes: no answer, or something went wrong; a mistake that the user can mend; Ctrl-C
FAILED, USAGE, INTERRUPTED = 1, 2, 130
TRACEBACK = "STEPWELL_TRACEBACK"  # set in the environment: exceptions are shown whole


def main(arguments: Sequence[str] | None = None) -> int:
    """The console entry point. Returns the exit code.

    0 done; 1 nothing was found, or something else than the arguments went wrong; 2 a usage error; 130 Ctrl-C. What goes
    wrong is said in one line on stderr; STEPWELL_TRACEBACK=1 in the environment shows where an exception came from.
    """
    _write_anything(sys.stdout)
    _write_anything(sys.stderr)
    try:
        app = _app()
        code = app(args=list(arguments) if arguments is not None else None, standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()  # at exit it would be too late to say why it failed
        if code == INTERRUPTED and not isinstance(code, _Told):  # typer turns Ctrl-C into a code
            _say("interrupted")
        return int(code) if isinstance(code, int) else 0
    except UsageError as error:
        _say(str(error))
        return USAGE
    except KeyboardInterrupt:
        _say("interrupted")
        return INTERRUPTED
    except BrokenPipeError:  # `stepwell tasks | head`: the reader has enough
        _close_output()
        return 0
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # so click ends where the reader of a pipe has enough
            _close_output()
            return 0
        _say(f"the task's code calls sys.exit({shown(error.code)})")
        return FAILED
    except Exception as error:
        return _refused(error)


class _Told(int):
    """An exit code of which the command has said why."""


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # nobody listens
        print(f"stepwell: {printable(text)}", file=sys.stderr)


def _write_anything(stream: Any) -> None:
    """A terminal or a pipe that knows few characters gets escapes for the others."""
    if callable(getattr(stream, "reconfigure", None)):
        stream.reconfigure(errors="backslashreplace")


def _close_output() -> None:
    with contextlib.suppress(OSError, ValueError):  # a stream of a test has no descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _refused(error: Exception) -> int:
    """The code for what typer itself refuses (an unknown option, a value that is no number), and for all else."""
    show, code = getattr(error, "show", None), getattr(error, "exit_code", None)
    if callable(show) and isinstance(code, int):
        show()
        return code
    if type(error).__name__ == "Abort":  # how click words Ctrl-C
        _say("interrupted")
        return INTERRUPTED
    if os.environ.get(TRACEBACK):
        raise error
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        _say(f"{where}{error.strerror}")
        _close_output()  # a full disk: the rest of the output would fail again at exit
        return FAILED
    _say(f"{type(error).__name__}: {shown(str(error), 200)[1:-1]} ({TRACEBACK}=1 in the environment shows where)")
    return FAILED


def _app() -> Callable[..., Any]:
    try:
        import typer
    except ImportError:
        raise MissingExtra("typer", "tools", "the command 'stepwell'") from None

    app = typer.Typer(
        help="Choose, build, run, tune and debug the optimizer of a PyTorch training run.",
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # rich's help costs 0.1 s of imports
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    def version(wanted: bool) -> None:
        if wanted:
            from stepwell import __version__

            print(f"stepwell {__version__}")
            raise typer.Exit

    @app.callback()
    def stepwell(
        version: Annotated[
            bool, typer.Option("--version", callback=version, is_eager=True, help="Print the version and stop.")
        ] = False,
    ) -> None:
        pass

    @app.command()
    def compare(
        task: Annotated[str, typer.Argument(help="A built-in task (see `stepwell tasks`) or my_task.py:task.")],
        optimizers: Annotated[str, typer.Option(help="Names with commas between (see `stepwell optimizers`).")] = (
            "sgd,adamw,lion"
        ),
        trials: Annotated[int, typer.Option(help="Learning rates to try for each optimizer.")] = 8,
        seeds: Annotated[int, typer.Option(help="Final runs of each optimizer at its best learning rate.")] = 3,
        steps: Annotated[int | None, typer.Option(help="Steps in a run; the task's own budget if not given.")] = None,
        jobs: Annotated[int | None, typer.Option(help="Worker processes; one per two cores if not given.")] = None,
        out: Annotated[str | None, typer.Option(help="Folder to keep the run in; runs/TASK if not given.")] = None,
        lr_range: Annotated[
            list[str] | None, typer.Option(help="Search other rates: adamw=1e-4:1e-1. May be repeated.")
        ] = None,
        option: Annotated[
            list[str] | None, typer.Option(help="Set an argument: adamw.weight_decay=0.1. May be repeated.")
        ] = None,
        prune: Annotated[bool, typer.Option(help="Cut hopeless learning rates half way.")] = True,
        device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
        as_json: Annotated[bool, typer.Option("--json", help="Print results.json instead of the table.")] = False,
        quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    ) -> int:
        """Compare optimizers on a task, fairly.

        Each gets the same number of learning rates and seeds. Prints a table and writes report.html.

        The same command resumes what Ctrl-C interrupted.
        """
        _require("stepwell compare", "optuna", "rich")
        _require("an HTML report", "plotly", "jinja2")
        from stepwell.compare import compare as run
        from stepwell.compare.progress import suited

        result = run(
            task,
            [name for name in (part.strip() for part in optimizers.split(",")) if name],
            trials=trials, seeds=seeds, steps=steps, jobs=jobs, out=out, prune=prune, device=device,
            lr_ranges=_ranges(lr_range or []), progress=suited(quiet),
            options=_options(option or [], "compare chooses the lr; its range is --lr-range {name}=low:high"),
        )  # fmt: skip
        return _hand_over(result, as_json)

    @app.command()
    def tasks(
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    ) -> None:
        """List the built-in tasks."""
        from stepwell.tasks import TABLE, find

        found = [find(name) for name in TABLE]
        facts = [
            {"name": t.name, "summary": t.summary, "family": t.family, "steps": t.steps,
             "metric": t.metric.name, "direction": t.metric.direction, "target": t.target}
            for t in found
        ]  # fmt: skip
        _list(facts, as_json, ("name", "family", "steps", "target", "summary"))

    @app.command()
    def optimizers(
        family: Annotated[
            str | None, typer.Option(help="Learning rates for this kind of model: cnn, transformer or toy.")
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
        markdown: Annotated[bool, typer.Option("--markdown", help="Print docs/optimizers.md.")] = False,
    ) -> None:
        """List the optimizers: learning rates worth trying, bytes of state per element, what each needs.

        --json prints all that is known of each, with sources.
        """
        from stepwell.optimizers import TABLE, find
        from stepwell.optimizers.facts import record

        families = ("cnn", "transformer", "toy")
        if family is not None and family not in families:
            raise unknown("family", family, families)
        if markdown:
            from stepwell.optimizers.guide import page

            print(page([find(name) for name in TABLE]), end="")
            return
        facts = [record(find(name), family) for name in TABLE]
        _list(facts, as_json, ("name", "kind", "method", "lr_low", "lr_high", "state_bytes", "needs", "summary"))

    @app.command()
    def schedule(
        expression: Annotated[str, typer.Argument(help='as "warmup(500).then(cosine(9500, to=0.1))"')],
        lr: Annotated[float, typer.Option(help="the rate that the factors multiply")] = 1.0,
        steps: Annotated[int | None, typer.Option(help="updates of the run; fractions need it")] = None,
        out: Annotated[str | None, typer.Option(help="also write a picture: .png, .svg or .pdf")] = None,
        plain: Annotated[bool, typer.Option("--plain", help="ASCII only")] = False,
    ) -> None:
        """Draw a schedule of the learning rate. The expression is parsed, never evaluated."""
        from stepwell.schedules.command import show

        ascii_only = plain or "utf" not in (sys.stdout.encoding or "").lower()
        print(show(expression, lr=lr, steps=steps, out=out, width=_width(), plain=ascii_only))

    @app.command()
    def plan(
        task: Annotated[
            str, typer.Argument(help="a task's name, or module.py:name of a task, a model, or what makes one")
        ],
        optimizer: Annotated[str, typer.Option(help="its name")] = "adamw",
        lr: Annotated[float | None, typer.Option(help="learning rate; the optimizer's default if left out")] = None,
        weight_decay: Annotated[float | None, typer.Option(help="weight decay; likewise")] = None,
        layer_decay: Annotated[float | None, typer.Option(help="multiplies lr per block from the top, as 0.75")] = None,
        state: Annotated[str, typer.Option(help="format of the state: fp32, bf16, int8, int4")] = "fp32",
        averages: Annotated[int, typer.Option(help="copies of the weights that are kept (EMA)")] = 0,
        device: Annotated[str, typer.Option(help="whose memory it must fit: cpu, cuda, cuda:1")] = "cpu",
    ) -> None:
        """Show what each tensor of a model gets, and the memory that training it will need."""
        from stepwell import optimizers
        from stepwell.groups.command import plan as planned
        from stepwell.groups.memory import STATE

        chosen: Any = optimizer
        try:
            chosen = optimizers.find(optimizer)
        except UsageError:
            if optimizer.lower() not in STATE:  # known to the forecast only
                raise
        print(
            planned(
                _model(task),
                chosen,
                defaults=_usual,
                lr=lr,
                weight_decay=weight_decay,
                layer_decay=layer_decay,
                state=state,
                averages=averages,
                device=device,
            )
        )

    @app.command("find-lr")
    def find_lr(
        task: Annotated[str, typer.Argument(help="A task's name, or my_task.py:task.")],
        optimizer: Annotated[str, typer.Option(help="Its name.")] = "adamw",
        option: Annotated[
            list[str] | None, typer.Option(help="Set an argument: sgd.momentum=0.8. May be repeated.")
        ] = None,
        low: Annotated[float | None, typer.Option(help="Lowest rate.")] = None,
        high: Annotated[float | None, typer.Option(help="Highest rate.")] = None,
        iterations: Annotated[int, typer.Option(help="Updates in all.")] = 99,
        orders: Annotated[int, typer.Option(help="Sweeps, each over the data in another order.")] = 3,
        attempts: Annotated[int, typer.Option(help="Tries; each takes three times the updates of the last.")] = 3,
        accumulate: Annotated[int | None, typer.Option(help="Micro-batches per update.")] = None,
        seed: Annotated[int, typer.Option(help="Of the model and of the orders.")] = 0,
        out: Annotated[str | None, typer.Option(help="Also draw the curve: .png, .svg or .pdf.")] = None,
    ) -> int:
        """Find the learning rate by a range test: the peak for a schedule of warmup and decay.

        Where the curve gives no answer, it tries again: lower, higher, or slower over more orders of the data. Exits
        with 1 if there is none in the end.
        """
        from stepwell.finder.command import check_out, found_for
        from stepwell.tasks import find

        given = _options(option or [], "find-lr searches the lr; its range is --low and --high")
        options = _of_optimizer(given, optimizer)
        check_out(out)  # before a task file is read, and before anything is trained
        found = found_for(
            find(task), optimizer, options=options, low=low, high=high, iterations=iterations, orders=orders,
            attempts=attempts, accumulate=accumulate, seed=seed, out=out,
        )  # fmt: skip
        print(found)
        return 0 if found.suggestion is not None else FAILED

    @app.command()
    def info(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
        """Show versions, devices, and what each backend can do here."""
        from stepwell.engine.explain import info as found

        facts = found()
        if as_json:
            print(json.dumps(facts, indent=1))
            return
        for title, entries in facts.items():
            print(title)
            for name, value in entries.items():
                print(f"  {name:<12}{value}")

    return app


def _require(needed_for: str, *packages: str) -> None:
    """Raise MissingExtra now for a package that would be missed only after the training."""
    for package in packages:
        if find_spec(package) is None:
            raise MissingExtra(package, "tools", needed_for)


def _hand_over(result: "Result", as_json: bool) -> int:
    """Write the report and results.json, print the table. Returns 130 for an interrupted comparison."""
    from stepwell import __version__, report
    from stepwell.compare.figures import sections
    from stepwell.compare.folder import write_whole
    from stepwell.compare.terminal import show

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
        _say("interrupted; the same command goes on from here")
        return _Told(INTERRUPTED)
    return 0


def _ranges(given: Sequence[str]) -> dict[str, tuple[float, float]]:
    """`["adamw=1e-4:1e-1"]` as a dict. Raises UsageError for what is not of that form."""
    ranges = {}
    for text in given:
        name, _, span = text.partition("=")
        low, _, high = span.partition(":")
        try:
            ranges[name] = float(low), float(high)
        except ValueError:
            raise UsageError(f"--lr-range {shown(text)}: write it as adamw=1e-4:1e-1") from None
    return ranges


def _options(given: Sequence[str], about_lr: str = "lr is chosen") -> dict[str, dict[str, Any]]:
    """`["adamw.weight_decay=0.1"]` as nested dicts; a value is a Python literal, or else text.

    `about_lr` is what is said of an lr: no command takes one here.
    """
    import ast

    options: dict[str, dict[str, Any]] = {}
    for text in given:
        target, equals, value = text.partition("=")
        name, dot, argument = target.partition(".")
        if not (name and dot and argument.isidentifier() and equals):
            raise UsageError(f"--option {shown(text)}: write it as adamw.weight_decay=0.1")
        if argument == "lr":
            raise UsageError(f"--option {shown(text)}: {about_lr.format(name=printable(name))}")
        mine = options.setdefault(name, {})
        try:
            mine[argument] = ast.literal_eval(value)
        except Exception:  # text; or an expression that is too deep or too long to be read
            mine[argument] = value
    return options


def _of_optimizer(given: dict[str, dict[str, Any]], optimizer: str) -> dict[str, Any]:
    """The options of the one optimizer that a command is about. Raises UsageError for those of another."""
    from stepwell.optimizers import find

    cls, options = find(optimizer), {}
    for name, mine in given.items():
        if find(name) is not cls:
            raise UsageError(f"--option names {find(name).__name__}, and the optimizer here is {cls.__name__}")
        options.update(mine)
    return options


def _model(source: str) -> Any:
    """The model of a task, or the one that a Python file holds or makes."""
    if ":" in source or source.endswith(".py") or "/" in source:
        from stepwell.tasks.load import model

        return model(source)
    from stepwell.tasks import find

    return find(source).build(0)


def _usual(optimizer: Any) -> dict[str, Any]:
    """The default lr and weight decay of an optimizer, by class or name; those that are known."""
    import inspect

    from stepwell.optimizers import TABLE, find

    known = not isinstance(optimizer, str) or optimizer.lower() in map(str.lower, TABLE)
    if not known:  # to the forecast only
        return {}
    cls: Any = find(optimizer) if isinstance(optimizer, str) else optimizer
    if "base" in cls.facts.compare_options:  # a wrapper's are those of what is inside
        cls = find(cls.facts.compare_options["base"])
    defaults = {name: one.default for name, one in inspect.signature(cls).parameters.items()}
    return {name: defaults[name] for name in ("lr", "weight_decay") if isinstance(defaults.get(name), float)}


def _list(facts: Sequence[dict[str, Any]], as_json: bool, columns: Sequence[str]) -> None:
    """Facts as JSON, or as plain aligned columns that other programs can read, too."""
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    rows = [list(columns), *([_cell(fact[column]) for column in columns] for fact in facts)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list):
        return ",".join(value) or "-"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _width() -> int:
    return max(40, min(100, shutil.get_terminal_size((78, 24)).columns))


if __name__ == "__main__":
    sys.exit(main())
