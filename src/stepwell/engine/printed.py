"""Printed kernels as modules on disk, where Numba and Triton keep their machine code beside or from them.

The folder is `$STEPWELL_CACHE`, or `stepwell` in `$XDG_CACHE_HOME` (`~/.cache`); where it cannot be written, a
temporary folder of this process.
"""

from __future__ import annotations

import atexit
import hashlib
import importlib.util
import os
import shutil
import sys
import tempfile
from functools import cache
from pathlib import Path
from types import ModuleType


def path_of(text: str, environment: str) -> Path:
    """The file of a printed module, written if it is not there. Its name changes with all it depends on."""
    digest = hashlib.sha256((text + environment).encode()).hexdigest()[:20]
    path = folder() / f"kernel_{digest}.py"
    if not path.exists():
        # Under another name first: a second process never imports half a file.
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        with os.fdopen(handle, "w") as file:
            file.write(text)
        os.replace(temporary, path)
    return path


def load(path: Path) -> ModuleType:
    """Import a printed module."""
    name = f"stepwell_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def module_of(text: str, environment: str) -> ModuleType:
    """The module of a printed text."""
    return load(path_of(text, environment))


@cache
def folder() -> Path:
    """Where printed modules lie."""
    wanted = os.environ.get("STEPWELL_CACHE")
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = Path(wanted) if wanted else home / "stepwell"
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            return place
    except OSError:  # read-only, or no home: machine code lives as long as this process
        place = Path(tempfile.mkdtemp(prefix="stepwell-"))
        atexit.register(shutil.rmtree, place, ignore_errors=True)
        return place
