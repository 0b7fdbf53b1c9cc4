"""What all writers have in common: three methods, and a refusal for a package that is not installed."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Literal, Protocol, runtime_checkable

from stepwell.errors import MissingExtra, UsageError

Level = Literal["error", "warning", "note"]
PREFIX = "doctor/"  # before every name, so that nothing of the user's is overwritten


@runtime_checkable
class Writer(Protocol):
    """Sends the doctor's numbers and findings to another tool.

    `step` is always the step of the trainer. A writer has no counter, so its curves match the curves that the training
    itself writes.
    """

    def step(self, step: int, values: dict[str, float]) -> None:
        """The numbers of one update, as {"loss": 0.5, "grad_norm": 1.2}."""

    def finding(self, step: int, text: str, level: Level) -> None:
        """A finding at an update. `level`: "error", "warning" or "note"."""

    def close(self) -> None:
        """Flush. What the user opened stays open."""


class MissingWriter(MissingExtra):
    """The package of a writer is not installed. No extra of stepwell installs such a package."""

    def __init__(self, package: str, name: str) -> None:
        said = f"the doctor's writer '{name}' needs the package '{package}', which is not installed"
        UsageError.__init__(self, f"{said}: pip install {package}")


def package(name: str, writer: str, installs: str = "") -> Any:
    """The module `name`. Raises MissingWriter if the module, or a package that it needs, is not installed."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        missing = (error.name or name).partition(".")[0]
        raise MissingWriter(installs or missing, writer) from None


def prefixed(values: dict[str, float]) -> dict[str, float]:
    """The values under the doctor's names.

    >>> prefixed({"loss": 0.5})
    {'doctor/loss': 0.5}
    """
    return {PREFIX + name: value for name, value in values.items()}
