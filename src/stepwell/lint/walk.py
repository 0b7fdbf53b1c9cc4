"""From the paths that a user gives to the files that are checked."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stepwell.errors import printable
from stepwell.lint.configuration import Configuration
from stepwell.lint.patterns import fits

_SIGNS = frozenset("*?[")  # what makes a name a pattern
ENDINGS = (".py", ".ipynb")


@dataclass(frozen=True)
class Target:
    """A file to check: the path as it is shown, the absolute one, and whether the standard input stands for it."""

    file: str
    path: str
    is_stdin: bool = False


@dataclass(frozen=True)
class Trouble:
    """A path that cannot be read, as a line."""

    said: str


def targets(
    paths: Sequence[str], configuration: Configuration, force_exclude: bool = False
) -> Iterator[Target | Trouble]:
    """The files at and below these paths, each once, in the order of the paths and of their names.

    A file that is named itself is checked whatever its ending, unless it is a stub, and also where a pattern excludes
    it, unless `force_exclude`. Links to folders inside a folder are not followed, so that no walk is endless.
    """
    seen: set[str] = set()
    for given in paths:
        if "\0" in given or not given:
            yield Trouble(f"{given!r} is no path")
            continue
        path = os.path.abspath(given)
        try:
            mode = os.stat(path).st_mode
        except OSError as error:
            yield Trouble(f"{printable(given)}: {error.strerror}")
            continue
        if stat.S_ISDIR(mode):
            if force_exclude and _is_out(path, configuration):
                continue
            for found in _below(given, path, configuration):
                if isinstance(found, Trouble) or found.path not in seen:
                    yield found
                if isinstance(found, Target):
                    seen.add(found.path)
        elif not stat.S_ISREG(mode):
            yield Trouble(f"{printable(given)}: no regular file")
        elif path not in seen and not path.endswith(".pyi") and not (force_exclude and _is_out(path, configuration)):
            seen.add(path)
            yield Target(os.path.normpath(given), path)


def _is_out(path: str, configuration: Configuration) -> bool:
    settings = configuration.of(path)
    return fits(path, settings.excluded, settings.base)


def _below(shown: str, folder: str, configuration: Configuration) -> Iterator[Target | Trouble]:
    settings = configuration.of(folder)
    names = {pattern.rstrip("/") for pattern in settings.excluded}
    by_name = [name for name in names if "/" not in name and not _SIGNS.isdisjoint(name)]
    by_path = [pattern for pattern in settings.excluded if "/" in pattern.rstrip("/")]
    try:
        with os.scandir(folder) as entries:
            inside = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        yield Trouble(f"{printable(shown)}: {error.strerror}")
        return
    for entry in inside:
        path = os.path.join(folder, entry.name)
        name = os.path.normpath(os.path.join(shown, entry.name))
        try:
            is_folder = entry.is_dir(follow_symlinks=False)
            is_file = entry.is_file()
        except OSError:  # a link to itself
            continue
        if not is_folder and not entry.name.endswith(ENDINGS):
            continue
        if entry.name in names or fits(f"/{entry.name}", by_name, "") or fits(path, by_path, settings.base):
            continue
        if is_folder:
            yield from _below(name, path, configuration)
        elif is_file:
            yield Target(name, path)
        elif not entry.is_symlink():  # a broken link, as editors leave them for locks, is no mistake of anybody
            yield Trouble(f"{printable(name)}: no regular file")
