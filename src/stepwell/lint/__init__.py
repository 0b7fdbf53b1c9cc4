"""A linter for PyTorch training scripts: mistakes that are found before the run.

>>> from stepwell.lint import lint_source
>>> for finding in lint_source("..."): print(finding.place, finding.code, finding.seen)

On the command line: `stepwell lint PATH...`. This room needs Python's standard library only.

`analysis` reads a script, `checks` holds one file for each check, and the other files are what the user sees: paths,
settings, comments, fixes, output.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stepwell.lint.api import lint_paths as lint_paths
    from stepwell.lint.api import lint_source as lint_source
    from stepwell.lint.settings import Settings as Settings

__all__ = ["Settings", "lint_paths", "lint_source"]

_WHERE = {"Settings": "settings", "lint_paths": "api", "lint_source": "api"}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name in _WHERE:
            return getattr(import_module(f"stepwell.lint.{_WHERE[name]}"), name)
        raise AttributeError(f"module 'stepwell.lint' has no attribute {name!r}")
