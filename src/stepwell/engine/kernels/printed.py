"""Printed kernels as modules. A module is made from the text that this process printed, never from a file.

The text is also kept in the cache folder, for people and profilers that follow a line of a traceback to its file.
"""

from __future__ import annotations

import hashlib
import linecache
import sys
from types import ModuleType

from stepwell.engine.kernels import cache_folder


def digest_of(text: str, environment: str) -> str:
    """What tells a printed module from all others: it changes with everything the module depends on."""
    return hashlib.sha256((text + environment).encode()).hexdigest()


def name_of(digest: str) -> str:
    """The name under which what belongs to a printed module is kept."""
    return f"kernel_{digest[:20]}"


def module_of(text: str, digest: str) -> ModuleType:
    """The module of a printed text."""
    name = name_of(digest)
    path = _kept(f"{name}.py", text)
    # Numba and Triton ask for the source of a function; Python reads it from here before it looks for a file.
    linecache.cache[path] = (len(text), None, text.splitlines(keepends=True), path)
    module = ModuleType(f"stepwell_{name}")
    module.__file__ = path
    sys.modules[module.__name__] = module  # Numba's machine code names its module
    exec(compile(text, path, "exec"), module.__dict__)
    return module


def _kept(name: str, text: str) -> str:
    """The path of a file with this text, or a name alone where there is no folder."""
    content = text.encode()
    if cache_folder.read(name) != content:
        cache_folder.write(name, content)
    place = cache_folder.folder()
    return name if place is None else str(place / name)
