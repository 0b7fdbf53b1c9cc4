"""The result of one call of a Step. Values are read from the device only when an attribute is asked for."""

from __future__ import annotations

from stepwell.engine.reading import Reading


class Done:
    """The result of one call of a `Step`.

    Attributes:
        lr: learning rate of the first group, as the update used it; after a micro-batch without an update, the rate
            that the update will use. Reading it does not wait for a GPU.
        number: how many micro-batches the accumulation has so far, this micro-batch included.

    The other attributes wait for the device when read:

        updated: whether the weights were updated. skipped: whether the update was skipped because a gradient was not
            finite.
        loss: mean loss of the accumulation so far, with the weights of the micro-batches.
        grad_norm: Euclidean norm of the whole gradient, unscaled, before clipping; None if the call made no update.
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
