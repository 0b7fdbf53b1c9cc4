"""One pass over a loader: how many micro-batches each batch is split into, so that the last micro-batch is known."""

from __future__ import annotations


class Pass:
    """Counts the calls of the Step for each batch.

    Args:
        usual: calls per batch in the earlier passes; None if unknown or not constant.

    Attributes:
        at_last: whether the current batch is the last one.
    """

    def __init__(self, usual: int | None) -> None:
        self.at_last = False
        self._before = usual
        self._seen: set[int] = set()
        self._calls = 0

    def begin(self, last: bool) -> None:
        """Called when a batch is yielded."""
        if self._calls:  # a batch that was left out says nothing
            self._seen.add(self._calls)
        self._calls, self.at_last = 0, last

    def called(self) -> bool:
        """Count a micro-batch. Returns whether it is the last of the pass, as far as known."""
        self._calls += 1
        return self.at_last and self._calls == self.usual()

    def usual(self) -> int | None:
        """Calls per batch, if constant so far."""
        if not self._seen:
            return self._before
        return next(iter(self._seen)) if len(self._seen) == 1 else None
