"""The doctor: watches a training run and says what is wrong with it, first things first."""

from __future__ import annotations

from stepwell.doctor.doctor import Doctor

__all__ = ["Doctor"]
