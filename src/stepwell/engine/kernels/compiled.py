"""A printed kernel, compiled by Numba or read from the cache folder."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

from stepwell.engine import blocks, randomness
from stepwell.engine.kernels import cpu_intrinsics, look, look_job, machine_code, printed, words


def compiled(text: str) -> Any:
    """The kernel of a printed text; it is compiled here, so what fails, fails before any update."""
    digest = printed.digest_of(text, _environment())
    return machine_code.compiled(printed.module_of(text, digest).kernel, printed.name_of(digest), digest)


@cache
def _environment() -> str:
    """What machine code depends on besides the printed text."""
    import numba

    modules = cpu_intrinsics, blocks, randomness, look, look_job, words
    called = [Path(str(module.__file__)).read_text() for module in modules]
    return " ".join([numba.__version__, sys.version, *called])
