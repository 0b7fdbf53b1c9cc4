"""The options of `stepwell lint`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any, NoReturn

from stepwell.errors import UsageError, closest
from stepwell.lint.settings import Settings

_FORMATS = ("text", "concise", "json", "json-lines", "github", "sarif")
_END = """
Exit codes: 0 nothing found, 1 findings (with --diff: something would be changed), 2 a mistake in the options or a file
that cannot be read; 2 comes before 1. `# noqa: SW101` mutes a line. More: docs/lint.md.
"""


class _Help(argparse.RawDescriptionHelpFormatter):
    """With a width of its own: argparse makes one for every option, and would import `shutil` to ask the terminal."""

    def __init__(self, prog: str) -> None:
        try:
            columns = int(os.environ.get("COLUMNS", "")) or 100
        except ValueError:
            columns = 100
        super().__init__(prog, max_help_position=32, width=max(40, min(columns, 100)) - 2)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line instead of the usage."""
        _, _, unknown = message.partition("unrecognized arguments: ")
        if unknown:
            first = unknown.split()[0].partition("=")[0]
            near = closest(first, [one for one in self._option_string_actions if one.startswith("--")])
            message = (
                f"unknown option {first}: {f'did you mean {near}? ' if near else ''}`stepwell lint --help` shows all"
            )
        raise UsageError(f"lint: {message}")


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The options. Raises UsageError, one line."""
    given = list(arguments)
    paths = []
    if "--" in given:
        at = given.index("--")
        given, paths = given[:at], given[at + 1 :]
    options = _parser().parse_intermixed_args(given)
    options.paths += paths
    return options


def settings(options: argparse.Namespace) -> Settings:
    """What the options say about what is looked for. Raises UsageError for a code that is not there."""
    return Settings(
        select=_codes(options.select),
        ignore=_codes(options.ignore),
        extend_select=_codes(options.extend_select) or (),
        extend_ignore=_codes(options.extend_ignore) or (),
        preview=options.preview,
        exclude=_patterns(options.exclude),
        extend_exclude=_patterns(options.extend_exclude) or (),
        unsafe_fixes=options.unsafe_fixes,
    )


def _codes(given: Sequence[str] | None) -> tuple[str, ...] | None:
    if given is None:
        return None
    return tuple(word.strip() for one in given for word in one.split(",") if word.strip())


def _patterns(given: Sequence[str] | None) -> tuple[str, ...] | None:
    """Patterns; those of paths begin in the working directory, not in the folder of a configuration."""
    words = _codes(given)
    if words is None:
        return None
    return tuple(os.path.abspath(word) if "/" in word.rstrip("/") else word for word in words)


def _whole(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 256:
        raise ValueError
    return number


_whole.__name__ = "number of processes (1 to 256)"  # how argparse words what it refuses


def _parser() -> _Parser:
    parser = _Parser(
        prog="stepwell lint",
        description="Find mistakes in PyTorch training scripts, before the run.",
        epilog=_END,
        allow_abbrev=False,
        formatter_class=_Help,
    )
    add = parser.add_argument
    add("paths", nargs="*", metavar="PATH", help="Files, folders and notebooks; - is the standard input (default: .).")

    group = parser.add_argument_group("what is looked for")
    codes: dict[str, Any] = {"action": "append", "metavar": "CODES"}
    group.add_argument("--select", **codes, help="Codes, prefixes (SW1), names or ALL, with commas between.")
    group.add_argument("--ignore", **codes, help="What is off.")
    group.add_argument("--extend-select", **codes, help="Beside what is on.")
    group.add_argument("--extend-ignore", **codes, help="Beside what is off.")
    group.add_argument(
        "--preview", action=argparse.BooleanOptionalAction, help="Checks that are mistaken more often, too."
    )
    group.add_argument("--exclude", action="append", metavar="PATTERNS", help="Files and folders to leave out.")
    group.add_argument(
        "--extend-exclude", action="append", metavar="PATTERNS", help="Beside those left out by default."
    )
    group.add_argument("--force-exclude", action="store_true", help="Leave out also what is named as a PATH.")
    group.add_argument("--config", metavar="FILE", default="", help="This pyproject.toml instead of the nearest.")
    group.add_argument("--isolated", action="store_true", help="No pyproject.toml.")
    group.add_argument(
        "--stdin-filename", metavar="FILE", default="", help="The file that the standard input stands for."
    )

    group = parser.add_argument_group("fixes")
    group.add_argument("--fix", action="store_true", help="Make the fixes that are safe.")
    group.add_argument("--unsafe-fixes", action=argparse.BooleanOptionalAction, help="Also those that need a look.")
    group.add_argument("--diff", action="store_true", help="Show what --fix would change, and change nothing.")

    group = parser.add_argument_group("output")
    group.add_argument(
        "--output-format",
        choices=_FORMATS,
        default="text",
        metavar="FORMAT",
        help=f"One of {', '.join(_FORMATS)}.",
    )
    group.add_argument("-o", "--output-file", metavar="FILE", default="", help="Write there instead.")
    group.add_argument("--statistics", action="store_true", help="How often each code was found.")
    group.add_argument("-q", "--quiet", action="store_true", help="Findings only, no summary.")
    group.add_argument("-w", "--watch", action="store_true", help="Look again whenever a file changes.")

    group = parser.add_argument_group("speed")
    group.add_argument("--no-cache", action="store_true", help="Look at every file.")
    group.add_argument(
        "--cache-dir", metavar="FOLDER", default="", help="Where the cache is (default: .stepwell_cache)."
    )
    group.add_argument("-j", "--jobs", type=_whole, metavar="N", help="Processes (default: the cores, for many files).")

    group = parser.add_argument_group("instead of looking")
    group.add_argument("--list", action="store_true", help="List the checks.")
    group.add_argument("--explain", metavar="CODE", default="", help="The manual page of one check.")
    group.add_argument("--version", action="store_true", help="Print the version.")
    return parser
