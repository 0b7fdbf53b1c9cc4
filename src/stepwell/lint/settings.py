"""The settings of a run: what is looked for, and where.

A `Settings` is what one source says: the table `[tool.stepwell.lint]`, the options of the command line, or a call from
Python. `over` lays one above another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from stepwell.errors import UsageError, closest, shown
from stepwell.lint.codes import expanded

DEFAULT_EXCLUDE = (
    ".bzr", ".direnv", ".eggs", ".git", ".hg", ".ipynb_checkpoints", ".mypy_cache", ".nox", ".pytest_cache",
    ".ruff_cache", ".stepwell_cache", ".svn", ".tox", ".venv", "__pycache__", "__pypackages__", "build", "dist",
    "node_modules", "site-packages", "venv",
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """What is looked for.

    Attributes:
        select: what is on: codes ("SW101"), prefixes ("SW1"), names ("missing-zero-grad"), "ALL". None: every check
            that is certain.
        ignore: what is off.
        extend_select, extend_ignore: the same, beside what is on or off already.
        preview: whether checks that may be mistaken ("likely") are on, too.
        per_file_ignores: pattern of paths -> what is off there.
        exclude: patterns of paths that are not walked into. None: `DEFAULT_EXCLUDE`.
        extend_exclude: the same, beside these.
        unsafe_fixes: whether fixes that may change what the program means are made.
        base: the folder from which patterns count; the working directory if empty.

    Raises UsageError for a code that is not there and for values of another type.

    >>> Settings(select=("SW1",), ignore=("SW101",)).ignore
    ('SW101',)
    """

    select: tuple[str, ...] | None = None
    ignore: tuple[str, ...] | None = None
    extend_select: tuple[str, ...] = ()
    extend_ignore: tuple[str, ...] = ()
    preview: bool | None = None
    per_file_ignores: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    exclude: tuple[str, ...] | None = None
    extend_exclude: tuple[str, ...] = ()
    unsafe_fixes: bool | None = None
    base: str = ""

    def __post_init__(self) -> None:
        for name in ("select", "ignore", "extend_select", "extend_ignore", "exclude", "extend_exclude"):
            given = getattr(self, name)
            if given is not None:
                object.__setattr__(self, name, _words(name, given))
            if given is not None and "exclude" not in name:
                for word in getattr(self, name):
                    expanded(word, name)
        for name in ("preview", "unsafe_fixes"):
            given = getattr(self, name)
            if given is not None and not isinstance(given, bool):
                raise UsageError(f"{name}={shown(given)} is neither true nor false")
        if not isinstance(self.per_file_ignores, Mapping):
            raise UsageError(
                f"per_file_ignores={shown(self.per_file_ignores)} is no table of patterns and codes, "
                'as {"tests/*" = ["SW1"]}'
            )
        ignores = {}
        for pattern, given in self.per_file_ignores.items():
            where = f"per_file_ignores of {shown(pattern)}"
            if not isinstance(pattern, str):
                raise UsageError(f"{where}: a pattern of paths is a text, as 'tests/*'")
            ignores[pattern] = _words(where, given)
            for word in ignores[pattern]:
                expanded(word, where)
        object.__setattr__(self, "per_file_ignores", ignores)

    def over(self, lower: Settings) -> Settings:
        """These settings above others: what is given here replaces what is below; what extends, adds."""
        both: dict[str, Any] = {}
        for name in ("select", "ignore", "preview", "exclude", "unsafe_fixes"):
            mine = getattr(self, name)
            both[name] = getattr(lower, name) if mine is None else mine
        for name in ("extend_select", "extend_ignore", "extend_exclude"):
            both[name] = (*getattr(lower, name), *getattr(self, name))
        both["per_file_ignores"] = {**lower.per_file_ignores, **self.per_file_ignores}
        return replace(lower, **both, base=lower.base or self.base)

    @property
    def excluded(self) -> tuple[str, ...]:
        return (*(DEFAULT_EXCLUDE if self.exclude is None else self.exclude), *self.extend_exclude)


# the keys as pyproject.toml has them -> the attribute
KEYS = {name.replace("_", "-"): name for name in Settings.__dataclass_fields__ if name != "base"}


def from_table(table: Any, file: str, base: str) -> Settings:
    """The settings of a table of a configuration file. Raises UsageError that names the file and the key."""
    if not isinstance(table, dict):
        raise UsageError(f"{file}: tool.stepwell.lint={shown(table)} is no table: write [tool.stepwell.lint]")
    given = {}
    for key, value in table.items():
        if key not in KEYS:
            near = closest(key, KEYS)
            raise UsageError(
                f"{file}: unknown key tool.stepwell.lint.{key}: {f'did you mean {near!r}? ' if near else ''}"
                f"known: {', '.join(sorted(KEYS))}"
            )
        given[KEYS[key]] = value
        try:
            Settings(**{KEYS[key]: value})
        except UsageError as error:
            said = str(error).replace("_", "-", 1) if str(error).startswith(KEYS[key]) else str(error)
            raise UsageError(
                f"{file}: [tool.stepwell.lint] {said.replace('per-file_ignores', 'per-file-ignores')}"
            ) from None
    return Settings(**given, base=base)


def _words(name: str, given: Any) -> tuple[str, ...]:
    if isinstance(given, str) or not isinstance(given, list | tuple | set | frozenset):
        raise UsageError(f'{name}={shown(given)} is no list of texts, as ["..."]')
    for one in given:
        if not isinstance(one, str) or not one.strip():
            raise UsageError(f'{name} has {shown(one)}, which is no text: write a list of texts, as ["..."]')
    return tuple(one.strip() for one in given)
