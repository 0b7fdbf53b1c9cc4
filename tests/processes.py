"""Several processes that train together, for tests of what is spread over them."""

from __future__ import annotations

import faulthandler
import gc
import socket
from collections.abc import Callable
from io import BytesIO
from queue import Empty
from typing import Any

import torch

Answers = dict[int, dict[str, Any]]  # by rank: what each case found


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


def in_processes(cases: dict[str, Callable[[], Any]], count: int, timeout: float = 400.0) -> Answers:
    """What each case (a function of a module, by name) returns in every one of `count` fresh processes.

    All cases share one launch. An exception becomes the answer `"UsageError: ..."`, and the next case follows. Raises
    TimeoutError for processes that hang.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    context = torch.multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=_work, args=(rank, count, port, cases, queue, timeout)) for rank in range(count)]
    for worker in workers:
        worker.start()
    try:
        answers = [queue.get(timeout=timeout) for _ in workers]
    except Empty as error:
        raise TimeoutError(f"processes did not answer in {timeout:.0f} s") from error
    finally:
        for worker in workers:
            worker.join(5)
            worker.kill()
    return {rank: torch.load(BytesIO(said), weights_only=False) for rank, said in answers}


def _work(rank: int, count: int, port: int, cases: dict[str, Callable[[], Any]], queue: Any, timeout: float) -> None:
    faulthandler.dump_traceback_later(0.9 * timeout, exit=True)  # where it hangs
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"tcp://localhost:{port}", rank=rank, world_size=count)
    found = {}
    for name, case in cases.items():
        try:
            found[name] = case()
        except Exception as error:  # of any kind: it is the answer, and a test says which it must be
            found[name] = f"{type(error).__name__}: {error}"
    said = BytesIO()
    torch.save(found, said)  # bytes: the memory of a tensor would end with this process
    queue.put((rank, said.getvalue()))
    torch.distributed.barrier()
    gc.collect()  # torch 2.13 may abort where FSDP's objects outlive the groups of gloo
    torch.distributed.destroy_process_group()
