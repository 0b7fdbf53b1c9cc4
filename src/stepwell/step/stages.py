"""Processes that train other parameters of the same model (the stages of a pipeline): one norm and one decision."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stepwell.arguments import refusal


class Stages:
    """The process group over which the squares of a Step's gradients are added up, or None."""

    def __init__(self, group: Any) -> None:
        if group is not None and not isinstance(group, torch.distributed.ProcessGroup):
            must = "a process group of torch.distributed, as mesh.get_group('pp'), or None"
            raise refusal("Step", "group", group, must)
        self.group = group

    def whole(self, norm: Tensor) -> Tensor:
        """The norm of the gradients of all stages; it is not finite in all of them if it is not in one."""
        if self.group is None:
            return norm
        squared = norm.double().square()
        torch.distributed.all_reduce(squared, group=self.group)
        return squared.sqrt().to(norm.dtype)
