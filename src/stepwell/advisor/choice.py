"""One value of a recipe, with its reason, its sources and its doubt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from stepwell.errors import UsageError, shown

Sure = Literal["high", "medium", "low"]
Value = str | float | int | bool | list[str] | list[float] | None


@dataclass(frozen=True)
class Choice:
    """One value of a recipe.

    Attributes:
        value: the value: a number, a word, or a list of them; None if the recipe sets nothing.
        low, high: the range in which the value is expected, for numbers.
        reason: why this value.
        sources: published configurations (their ids) and rules.
        sure: "high", "medium" or "low".
        would_change: what would change the value.
    """

    value: Value
    reason: str
    sources: tuple[str, ...] = ()
    sure: Sure = "medium"
    would_change: str = ""
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        return written(self.value) + (
            "" if self.low is None or self.high is None else f" ({self.low:.2g} to {self.high:.2g})"
        )

    def record(self) -> dict[str, Any]:
        """The choice as plain values."""
        return {**asdict(self), "sources": list(self.sources)}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Choice:
        """The choice that `record` gave. Raises UsageError for a record of another form."""
        known = set(cls.__dataclass_fields__)
        strange = [key for key in record if key not in known]
        if strange or "value" not in record or "reason" not in record:
            raise UsageError(
                f"a choice is {shown(dict(record))}; it must have value and reason, and may have {sorted(known)}"
            )
        return cls(**{**record, "sources": tuple(record.get("sources", ()))})


def written(value: Value) -> str:
    """A value as text: numbers with four digits, a list with commas.

    >>> written(0.00060000001), written([0.9, 0.95]), written(None)
    ('0.0006', '0.9, 0.95', 'not set')
    """
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(written(item) for item in value) if isinstance(value, list) else str(value)
