"""Two processes that train together, for tests of what is spread over them."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import torch


def in_two_processes(function: Callable[[int, int, Any], None], answers: int = 2) -> list[Any]:
    """What `function(rank, port, queue)`, a function of a module, puts into the queue in two fresh processes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    context = torch.multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    workers = [context.Process(target=function, args=(rank, port, queue)) for rank in range(2)]
    for worker in workers:
        worker.start()
    found = [queue.get() for _ in range(answers)]
    for worker in workers:
        worker.join()
    return found
