"""What one call of a step did, read only when asked: nothing waits for the device before."""

from __future__ import annotations

from stepwell.engine.reading import Reading


class Done:
    """What one call of a `Step` did.

    Attributes:
        lr: learning rate of the first group, as the update used it; for a micro-batch without an update, the one that
            the update will use. On a GPU it is known without waiting.
        number: of micro-batches in the accumulation so far, this one included.

    The other attributes wait for the device when they are read:

        updated: whether the weights have changed. skipped: whether they should have, but a gradient was not finite.
        loss: mean of the accumulation so far, weighted as the micro-batches are.
        grad_norm: Euclidean norm of the whole gradient, unscaled, before clipping; None if this was no update.
        clipped: whether clipping changed the gradient.
    """

    __slots__ = ("_loss", "_lr", "_outcome", "number")

    def __init__(self, lr: float | Reading, number: int, loss: Reading | None, outcome: Reading | None = None) -> None:
        self._lr = lr
        self.number = number
        self._loss = loss
        self._outcome = outcome  # found_inf, norm, clipped

    @property
    def lr(self) -> float:
        return self._lr[0] if isinstance(self._lr, Reading) else self._lr

    @property
    def updated(self) -> bool:
        return self._outcome is not None and self._outcome[0] == 0

    @property
    def skipped(self) -> bool:
        return self._outcome is not None and self._outcome[0] != 0

    @property
    def grad_norm(self) -> float | None:
        return None if self._outcome is None else self._outcome[1]

    @property
    def clipped(self) -> bool:
        return self._outcome is not None and self._outcome[2] != 0

    @property
    def loss(self) -> float | None:
        return None if self._loss is None else self._loss[0]

    def __repr__(self) -> str:
        names = ("updated", "skipped", "lr", "loss", "grad_norm", "clipped")
        return f"Done({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"
