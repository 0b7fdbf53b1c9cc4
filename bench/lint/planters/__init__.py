"""The planters, in files by the first digit of their codes. Importing this registers all of them."""

from lint.planters import clipping, evaluation, gradients, groups, networks, order, runs, schedules
from lint.variants import VARIANTS

__all__ = ["VARIANTS", "clipping", "evaluation", "gradients", "groups", "networks", "order", "runs", "schedules"]
