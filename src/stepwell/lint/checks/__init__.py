"""PLACEHOLDER of the surface's branch: to be overwritten by the table of the checks."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from stepwell.findings import Check

TABLE = {
    "SW101": "zero_grad_between",
    "SW210": "scheduler_get_lr",
    "SW901": "plain_sgd",
}

CHECKS: tuple[Check, ...] = ()


def load() -> list[ModuleType]:
    return [import_module(f"stepwell.lint.checks.{file}") for file in TABLE.values()]
