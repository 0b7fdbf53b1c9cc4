"""`stepwell lint`: options in, findings out, an exit code."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from stepwell.errors import UsageError, printable
from stepwell.lint.options import parsed, settings
from stepwell.terminal import DONE, USAGE, say

if TYPE_CHECKING:  # imported where they are used: the command starts faster
    from stepwell.lint.report import Report
    from stepwell.lint.run import Plan

FOUND = 1


def lint(arguments: Sequence[str]) -> int:
    """Find mistakes in training scripts before the run.

    Returns 0 if nothing was found, 1 for findings, 2 if something could not be read. Raises UsageError for a mistake in
    the options or in a configuration.
    """
    try:
        options = parsed(arguments)
    except SystemExit:  # after --help
        return DONE
    if options.version:
        from stepwell import __version__

        print(f"stepwell {__version__}")
        return DONE
    if options.list or options.explain:
        from stepwell.lint import explain

        print(explain.page(explain.module_of(options.explain)) if options.explain else explain.listed(), end="")
        return DONE
    _check(options)
    given = b""
    if "-" in options.paths:
        if sys.stdin is None:
            raise UsageError("lint: - is the standard input, which is closed: give files")
        given = sys.stdin.buffer.read()
    if options.watch:
        return _watch(options)
    return _once(options, given)


def _check(options: Namespace) -> None:
    """Raise UsageError for options that do not go together."""
    options.paths = options.paths or ["."]
    if "-" in options.paths and len(options.paths) > 1:
        raise UsageError("lint: - is the standard input and stands alone: leave out the other paths")
    if options.stdin_filename and options.paths != ["-"]:
        raise UsageError("lint: --stdin-filename names the standard input: give - as the path")
    if options.config and options.isolated:
        raise UsageError("lint: --config gives a configuration and --isolated forbids one: leave out one of both")
    if options.cache_dir and options.no_cache:
        raise UsageError("lint: --cache-dir gives a cache and --no-cache forbids one: leave out one of both")
    if options.watch and ("-" in options.paths or options.fix or options.diff or options.output_file):
        raise UsageError("lint: --watch prints findings of files: leave out -, --fix, --diff and --output-file")


def _plan(options: Namespace, given: bytes) -> Plan:
    from stepwell.lint.configuration import Configuration
    from stepwell.lint.run import Plan

    return Plan(
        paths=tuple(options.paths),
        configuration=Configuration(settings(options), options.config, options.isolated),
        cache="" if options.no_cache else os.path.abspath(options.cache_dir) if options.cache_dir else None,
        processes=options.jobs,
        force_exclude=options.force_exclude,
        stdin=given,
        stdin_name=options.stdin_filename or "<stdin>",
    )


def _once(options: Namespace, given: bytes) -> int:
    """One run and its output."""
    plan = _plan(options, given)
    if not (options.fix or options.diff):
        from stepwell.lint.run import looked

        report = looked(plan)
        _print(_findings(report, options), options)
    else:
        from stepwell.lint.mending import mended, written

        report, changes = mended(plan)
        if options.diff:
            from stepwell.lint.diff import diff

            _print("".join(diff(one.old, one.new) for one in changes if one.old and one.new), options)
        else:
            written(changes, report)
            if options.paths == ["-"]:  # the source takes the output; what is left to say goes beside it
                _binary(next((one.new.data() for one in changes if one.new), given))
                sys.stderr.write(_findings(report, options))
            else:
                _print(_findings(report, options), options)
    for line in report.troubles:
        say(printable(line))
    if not report.files and not report.troubles and not options.quiet:
        say(f"lint: no .py or .ipynb file in {printable(' '.join(options.paths))[:200]}")
    if report.troubles:
        return USAGE
    if options.diff:
        return FOUND if changes else DONE
    return FOUND if report.hits else DONE


def _findings(report: Report, options: Namespace) -> str:
    from stepwell.lint.output import FORMATS, statistics

    is_text = options.output_format in ("text", "concise")
    if options.statistics:
        found = statistics(report, is_json=options.output_format.startswith("json"))
    else:
        found = FORMATS[options.output_format](report, _colored(options))
    if is_text and not options.quiet:
        found += report.summary() + "\n"
    return found


def _colored(options: Namespace) -> bool:
    """Whether the output is a terminal that wants color (https://no-color.org)."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or options.output_file:
        return False
    return sys.stdout is not None and sys.stdout.isatty()


def _print(text: str, options: Namespace) -> None:
    if not options.output_file:
        if sys.stdout is not None:
            sys.stdout.write(text)
        return
    from pathlib import Path

    from stepwell.files import write_whole

    path = Path(options.output_file)
    if path.exists() and not path.is_file() and not path.is_dir():  # /dev/stdout is written to and not replaced
        with path.open("w", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(text)
    else:
        write_whole(path, text)


def _binary(data: bytes) -> None:
    sys.stdout.flush()
    stream = getattr(sys.stdout, "buffer", None)
    if stream is None:  # a test's
        sys.stdout.write(data.decode("utf-8", "replace"))
    else:
        stream.write(data)


def _watch(options: Namespace) -> int:
    from stepwell.lint.walk import Target, targets
    from stepwell.lint.watch import watch

    def look() -> None:
        if sys.stdout.isatty():
            sys.stdout.write("\033[2J\033[H")
        try:
            _once(options, b"")
        except UsageError as error:  # a configuration that is being written
            say(str(error))
        sys.stdout.flush()

    def files() -> list[str]:
        try:
            configuration = _plan(options, b"").configuration
            found = targets(options.paths, configuration, options.force_exclude)
            return [one.path for one in found if isinstance(one, Target)] + ([options.config] if options.config else [])
        except UsageError:
            return []

    _plan(options, b"")  # a mistake in the options ends it at once
    watch(look, files)
    return DONE


lint.parses_itself = True  # type: ignore[attr-defined]  # for stepwell.commands, which asks typer to parse the others
