"""The doctor: watches a training run and says what is wrong with it, first things first.

`Doctor` needs torch; the checks' documentation, the journal and `stepwell doctor` do not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stepwell.doctor.doctor import Doctor as Doctor

__all__ = ["Doctor"]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name == "Doctor":
            from stepwell.doctor.doctor import Doctor

            return Doctor
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
