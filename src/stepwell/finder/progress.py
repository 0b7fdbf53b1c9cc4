"""A progress bar on the terminal during a sweep."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from stepwell.errors import MissingExtra

Progress = Callable[[int], None]


@contextmanager
def bar(total: int, wanted: bool | None) -> Iterator[Progress]:
    """A function that receives the number of finished iterations.

    Raises MissingExtra if a progress bar is requested and rich is not installed.
    """
    if wanted and find_spec("rich") is None:
        raise MissingExtra("rich", "tools", "a progress bar")
    if wanted is None:
        wanted = sys.stderr.isatty() and find_spec("rich") is not None
    if not wanted:
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("finding the learning rate", total=total)
        yield lambda done: shown.update(task, completed=done)
