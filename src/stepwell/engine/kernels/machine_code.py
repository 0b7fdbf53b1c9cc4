"""Compiles a kernel with Numba, or takes its machine code from the cache folder.

Numba's own cache trusts its files: it unpickles any file in its folder. Here a kernel is one file, which begins with a
digest of its content and of everything that the content depends on. A file that does not match is never unpickled: the
kernel is compiled again and the file replaced.
"""

from __future__ import annotations

import gc
import hashlib
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

from stepwell.engine.kernels import cache_folder

_MAGIC = b"stepwell machine code 1\n"
_DIGEST = hashlib.sha256().digest_size
# Numba's settings that change what it compiles.
_SETTINGS = ("OPT", "DEBUGINFO_DEFAULT", "BOUNDSCHECK", "LOOP_VECTORIZE", "SLP_VECTORIZE", "DISABLE_INTEL_SVML")


def compiled(function: Callable[[int], None], name: str, digest: str) -> Any:
    """`function`, which takes an address, as a C function (`.address`), kept as `name` for what `digest` stands for."""
    options = {"error_model": "numpy"}
    with _no_collection():
        return _compiled(function, name, digest, options)


def _compiled(function: Callable[[int], None], name: str, digest: str, options: dict[str, Any]) -> Any:
    from numba import cfunc, types

    try:
        from numba.core.ccallback import CFunc

        kernel = CFunc(function, ((types.voidptr,), types.void), locals={}, options=options)
        kernel._cache = _Kept(f"{name}.nbc", digest)  # type: ignore[attr-defined]
        kernel.compile()
        return kernel
    except Exception:  # machine code that this Numba cannot load, or a Numba whose insides have changed
        return cfunc(types.void(types.voidptr), **options)(function)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Python's garbage collector waits. A compilation makes a million objects and hardly any garbage; to look through
    all objects of a process that has imported torch takes 0.15 s each time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class _Kept:
    """What a compiled function of Numba asks of its cache."""

    def __init__(self, name: str, digest: str) -> None:
        self.name = name
        self.depends = f"{digest} {_target()}".encode()

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """The result of an earlier compilation, or None."""
        content = sealed_content(cache_folder.read(self.name), self.depends)
        if content is None:
            return None
        from numba.core.compiler import CompileResult
        from numba.core.runtime import rtsys

        try:
            # What machine code calls. Numba would also read all that it can compile, and so import SciPy where that is
            # installed: two thirds of the time of a first step.
            rtsys.initialize(target_context)
            return CompileResult._rebuild(target_context, *pickle.loads(content))
        except Exception:  # it is whole, and does not suit this process
            return None

    def save_overload(self, signature: Any, result: Any) -> None:
        """Keep the result of a compilation if that can be done."""
        with suppress(Exception):  # the kernel is compiled, and runs without being kept
            from numba.core.serialize import dumps

            if not result.library.has_dynamic_globals:
                cache_folder.write(self.name, sealed(dumps(result._reduce()), self.depends))


def sealed(content: bytes, depends: bytes) -> bytes:
    """`content` behind a digest of it and of what it depends on."""
    return _MAGIC + _digest(content, depends) + content


def sealed_content(file: bytes | None, depends: bytes) -> bytes | None:
    """What `sealed` was given; None unless every byte is as it was, and was made for what `depends` says."""
    start = len(_MAGIC) + _DIGEST
    if file is None or len(file) < start or not file.startswith(_MAGIC):
        return None
    content = file[start:]
    return content if file[len(_MAGIC) : start] == _digest(content, depends) else None


def _digest(content: bytes, depends: bytes) -> bytes:
    return hashlib.sha256(hashlib.sha256(depends).digest() + content).digest()


@cache
def _target() -> str:
    """The processor and the settings that machine code is made for."""
    import llvmlite
    from numba.core import config
    from numba.core.registry import cpu_target

    processor = cpu_target.target_context.codegen().magic_tuple()
    return repr((llvmlite.__version__, processor, [getattr(config, name, None) for name in _SETTINGS]))
