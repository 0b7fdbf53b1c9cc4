"""One pass over a loader: how many micro-batches each batch is given in, so that the last one is known."""

from __future__ import annotations


class Pass:
    """Counts the calls for each batch.

    Args:
        usual: calls per batch in the passes before; None where that is not known or not always the same.

    Attributes:
        at_last: the batch that is out is the last one.
    """

    def __init__(self, usual: int | None) -> None:
        self.at_last = False
        self._before = usual
        self._seen: set[int] = set()
        self._calls = 0

    def begin(self, last: bool) -> None:
        """A batch is handed out."""
        if self._calls:  # a batch that was left out says nothing
            self._seen.add(self._calls)
        self._calls, self.at_last = 0, last

    def called(self) -> bool:
        """A micro-batch came in; whether it is the last of the pass, as far as can be known."""
        self._calls += 1
        return self.at_last and self._calls == self.usual()

    def usual(self) -> int | None:
        """Calls per batch, where they have always been the same."""
        if not self._seen:
            return self._before
        return next(iter(self._seen)) if len(self._seen) == 1 else None
