"""The linter for use from Python."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace

from stepwell.errors import UsageError, shown
from stepwell.findings import Finding
from stepwell.lint.active import active
from stepwell.lint.configuration import Configuration
from stepwell.lint.document import Unread
from stepwell.lint.examined import examined
from stepwell.lint.one_file import troubles
from stepwell.lint.reading import check_size, document
from stepwell.lint.run import Plan, looked
from stepwell.lint.settings import Settings


def lint_source(source: str | bytes, file: str = "<source>", settings: Settings | None = None) -> list[Finding]:
    """What the checks find in a source, by line.

    Args:
        source: the source of a script, or of a notebook if `file` ends in `.ipynb`.
        file: the name that the places of the findings have.
        settings: what is looked for; by default every check that is certain. No pyproject.toml is read.

    Raises UsageError, one line, for what cannot be read: broken syntax, no UTF-8, more than 2 MB.

    >>> from stepwell.lint import Settings, lint_source
    >>> lint_source("import torch", settings=Settings(select=("ALL",)))
    []
    """
    if not isinstance(source, str | bytes):
        raise UsageError(f"source is a {type(source).__name__}; it must be a text or bytes")
    if not isinstance(file, str) or not file or "\0" in file:
        raise UsageError(f"file={shown(file)} is no name of a file: give a text")
    _check(settings)
    try:
        data = source if isinstance(source, bytes) else source.encode("utf-8", "surrogatepass")
        check_size(len(data), file.endswith(".ipynb"))
        if isinstance(source, str) and not file.endswith(".ipynb"):
            from stepwell.lint.document import Document

            read = Document(file, source.removeprefix("\ufeff"))
        else:
            read = document(file, data)
        found = examined(read)
    except Unread as error:
        raise UsageError(f"{file}: {error}") from None
    for said in troubles(found):
        raise UsageError(said)
    given = settings or Settings()
    counts = active(given if given.base else replace(given, base=os.getcwd()), os.path.abspath(file))
    return [hit.finding for hit in found.hits if counts(hit)]


def lint_paths(
    paths: Iterable[str | os.PathLike[str]] | str | os.PathLike[str],
    settings: Settings | None = None,
    *,
    isolated: bool = False,
    processes: int = 1,
    on_trouble: Callable[[str], None] | None = None,
) -> list[Finding]:
    """What the checks find in files and folders, file after file, by line.

    Args:
        paths: files, folders, notebooks, as `stepwell lint` takes them.
        settings: what is looked for, above what the nearest pyproject.toml of each file says.
        isolated: whether no pyproject.toml is read.
        processes: how many; more than one starts others by fork, where a program with threads should not.
        on_trouble: is called with a line for each file that cannot be read; by default a warning is given.

    Raises UsageError for paths that are no paths and settings that are no settings.
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else list(paths) if isinstance(paths, Iterable) else [paths]
    for one in given:
        if not isinstance(one, str | os.PathLike) or not isinstance(os.fspath(one), str):
            raise UsageError(f"path {shown(one)} is neither a text nor a Path")
    if not isinstance(processes, int) or isinstance(processes, bool) or not 1 <= processes <= 256:
        raise UsageError(f"processes={shown(processes)}; it must be a whole number from 1 to 256")
    _check(settings)
    plan = Plan(
        tuple(os.fspath(one) for one in given),
        Configuration(settings, isolated=isolated),
        cache="",
        processes=processes,
    )
    report = looked(plan)
    for said in report.troubles:
        if on_trouble is None:
            warnings.warn(said, stacklevel=2)
        else:
            on_trouble(said)
    return report.findings


def _check(settings: object) -> None:
    if settings is not None and not isinstance(settings, Settings):
        raise UsageError(f"settings={shown(settings)}; it must be a stepwell.lint.Settings or None")
