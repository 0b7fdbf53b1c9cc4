"""Runs a compiled function on the threads that torch computes with.

A second pool of threads is slower than torch's own threads: after a backward pass torch's threads still spin, waiting
for work, on the cores that the second pool needs (measured on 2 cores, AdamW inside a training loop: 0.88 times torch's
fused step with Numba's own OpenMP pool). So a job is passed to the OpenMP runtime that torch has loaded, through
`GOMP_parallel`, which GNU's and Intel's runtimes both provide. Without this function, Python's threads are used.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from pathlib import Path

import torch

# void (*function)(void *data). Python's lock is kept while a kernel runs: a thread that moves a tensor's memory
# (share_memory_(), as a multiprocessing queue does while it pickles) must hold the lock, and so waits.
Function = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)
_Released = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def run(function: int, data: int, threads: int) -> None:
    """Call the function at an address on `threads` threads, each with `data`; returns when all have returned.

    The function divides the work itself, and works whatever number of threads it really gets.
    """
    if threads == 1:
        Function(function)(data)
        return
    parallel = _gomp_parallel()
    if parallel is not None:
        parallel(function, data, threads, 0)
        return
    call = _Released(function)  # these threads are Python's, and would wait for each other
    others = [_pool(threads - 1).submit(call, data) for _ in range(threads - 1)]
    call(data)
    wait(others)


@cache
def _gomp_parallel() -> Callable[[int, int, int, int], None] | None:
    """`GOMP_parallel` of torch's OpenMP runtime: (function, data, number of threads, flags)."""
    for path in _runtimes():
        try:
            function = ctypes.PyDLL(path).GOMP_parallel
        except (OSError, AttributeError):
            continue
        function.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
        function.restype = None
        return function
    return None


def _runtimes() -> list[str]:
    """The OpenMP libraries in this process, those that came with torch first."""
    own = str(Path(torch.__file__).parent)
    try:
        with open("/proc/self/maps") as maps:
            loaded = {line.split()[-1] for line in maps if "omp" in line and ".so" in line}
    except OSError:
        return []
    found = [p for p in loaded if Path(p).name.startswith(("libgomp", "libiomp5", "libomp"))]
    return sorted(found, key=lambda path: (not path.startswith(own), path))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="stepwell")
