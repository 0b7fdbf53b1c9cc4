"""Whether kernels for the CPU can be compiled here."""

from __future__ import annotations

from functools import cache


@cache
def has_numba() -> bool:
    """Whether Numba can be imported."""
    try:
        import numba  # noqa: F401
    except ImportError:
        return False
    return True
