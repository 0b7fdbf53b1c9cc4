"""Where the settings of a file come from: the nearest pyproject.toml above it that has a table [tool.stepwell.lint]."""

from __future__ import annotations

import os

from stepwell.errors import UsageError, printable
from stepwell.lint.settings import Settings, from_table

FILE = "pyproject.toml"


class Configuration:
    """The settings of every file of a run.

    Args:
        given: the settings of the command line, which lie above those of a file.
        file: one configuration file for all, instead of the nearest.
        isolated: whether no configuration file is read.
    """

    def __init__(self, given: Settings | None = None, file: str = "", isolated: bool = False) -> None:
        self._given = given or Settings()
        self._isolated = isolated
        self._of_folder: dict[str, Settings | None] = {}
        self._merged: dict[str, Settings] = {}
        self._project: dict[str, str] = {}
        self._fixed: Settings | None = None
        if file:
            table = _table(file, must_exist=True)
            base = os.path.dirname(os.path.abspath(file))
            self._fixed = self._over(Settings(base=base) if table is None else from_table(table, file, base))
        elif isolated:
            self._fixed = self._over(Settings(base=os.getcwd()))

    def _over(self, lower: Settings) -> Settings:
        return self._given.over(lower)

    def of(self, path: str) -> Settings:
        """The settings of a file or folder, given by its absolute path."""
        if self._fixed is not None:
            return self._fixed
        folder = path if os.path.isdir(path) else os.path.dirname(path)
        if folder not in self._merged:
            found = self._nearest(folder)
            self._merged[folder] = self._over(found if found is not None else Settings(base=os.getcwd()))
        return self._merged[folder]

    def _nearest(self, folder: str) -> Settings | None:
        if folder in self._of_folder:
            return self._of_folder[folder]
        file = os.path.join(folder, FILE)
        table = _table(file) if os.path.isfile(file) else None
        parent = os.path.dirname(folder)
        if table is not None:
            found: Settings | None = from_table(table, os.path.relpath(file), folder)
        else:
            found = self._nearest(parent) if parent != folder else None
        self._of_folder[folder] = found
        return found

    def project(self, folder: str) -> str:
        """The folder of the nearest pyproject.toml at or above a folder; the working directory without one."""
        if folder not in self._project:
            parent = os.path.dirname(folder)
            if os.path.isfile(os.path.join(folder, FILE)):
                self._project[folder] = folder
            else:
                self._project[folder] = self.project(parent) if parent != folder else os.getcwd()
        return self._project[folder]


def _table(file: str, must_exist: bool = False) -> object | None:
    """The table of a file, or None if it has none. TOML is only read where the word "stepwell" is in it."""
    name = printable(file if must_exist else os.path.relpath(file))
    try:
        with open(file, "rb") as stream:
            data = stream.read()
    except OSError as error:
        if must_exist or not isinstance(error, FileNotFoundError):
            raise UsageError(f"configuration {name}: {error.strerror}") from None
        return None
    if b"stepwell" not in data:
        return None
    from stepwell.lint.toml import NotRead, read

    try:
        whole = read(data.decode("utf-8"))
    except (NotRead, UnicodeDecodeError) as error:
        raise UsageError(f"configuration {name} is no TOML: {printable(str(error))}") from None
    for key in ("tool", "stepwell", "lint"):
        if key not in whole:
            return None
        whole = whole[key]
        if not isinstance(whole, dict):
            return whole if key == "lint" else None
    return whole
