"""Adaptive sharpness-aware minimization: SAM whose neighborhood is relative to the magnitude of each weight.

T        = |p| + eta for weights, 1 for other parameters
e        = rho * T * T * g / ||T * g||    (elementwise; one norm over all tensors)
g_sharp  = gradient at p + e
p       <- the step of the wrapped optimizer at p, with g_sharp
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor, nn

from stepwell.engine.gradients import global_norm
from stepwell.engine.rule import Range
from stepwell.optimizers.facts import Facts
from stepwell.wrappers.sam import SAM, _inverse, _Moved
from stepwell.wrappers.weights import wide


class ASAM(SAM):
    """ASAM, around any optimizer: SAM that does not depend on how scale is distributed over layers.

    Multiplying one layer by 10 and dividing the next by 10 changes no output of a ReLU network. It changes the
    sharpness that SAM measures, but not the sharpness that ASAM measures. Cost: as SAM. rho is about ten times SAM's.

    Args:
        optimizer: the wrapped optimizer, of this package or of torch.
        rho: length of e relative to the weights, at least 0. 0.5 to 2 are usual. In the parameter groups its key is
            `sam_rho`.
        eta: added to |p|, so that weights near 0 move, too; at least 0.
        model: the model whose batch norm statistics are updated by the first evaluation only.

    As in the authors' code, weights are parameters with "weight" in their name ("layer.weight"): matrices, filters, and
    the scales of norms. Biases and all other parameters have T = 1. Without names (build the wrapped optimizer with
    `model.named_parameters()`), tensors with two or more dimensions count as weights. Everything else is as in `SAM`.

    Reference: Kwon, Kim, Park, Choi, "ASAM: adaptive sharpness-aware minimization for scale-invariant learning of deep
    neural networks", arXiv 2102.11600, algorithm 1 with p = 2 and the elementwise operator.

    >>> optimizer = ASAM(SGD(model.named_parameters(), lr=0.1, momentum=0.9), rho=0.5, eta=0.01, model=model)
    """

    settings: ClassVar[tuple[str, ...]] = ("rho", "eta")
    ranges: ClassVar[dict[str, Range]] = {"rho": Range(0), "eta": Range(0)}
    facts: ClassVar[Facts] = Facts(
        lr={"default": (3e-3, 1.0), "cnn": (1e-2, 1.0), "transformer": (1e-2, 3.0), "toy": (1e-5, 1e-1)},
        source="that of SGD inside; Kwon et al. 2102.11600, section 5 (rho 0.5 CIFAR-10, 1 CIFAR-100, eta 0.01)",
        compare_options=MappingProxyType({"base": "sgd", "momentum": 0.9}),
        method="perturbed",
        kind="wrapper",
        lr_against_adamw=100.0,
        needs_closure=True,
    )

    def __init__(
        self, optimizer: torch.optim.Optimizer, rho: float = 0.5, eta: float = 0.01, model: nn.Module | None = None
    ) -> None:
        super().__init__(optimizer, rho, model)
        self.eta = float(self._read("eta", eta))

    def _move(self, moved: Sequence[_Moved]) -> None:
        if not moved or self._move_by_kernels(self.eta):
            return
        scales = [self._scale(item) for item in moved]
        scaled = [
            item.gradient if scale is None else item.gradient * scale for item, scale in zip(moved, scales, strict=True)
        ]
        inverse = _inverse(global_norm(scaled))
        for item, scale, gradient in zip(moved, scales, scaled, strict=True):
            length = self._length(item, inverse)
            self._write(
                item, gradient.to(length.dtype) * length if scale is None else gradient.mul_(scale).mul_(length)
            )

    def _scale(self, item: _Moved) -> Tensor | None:
        """T of a tensor, None for 1."""
        is_adaptive = self._is_adaptive(item.name, item.tensor)
        return wide(item.tensor, self).abs().add_(self.eta) if is_adaptive else None

    def _is_adaptive(self, name: str, tensor: Tensor) -> bool:
        return "weight" in name if name else tensor.dim() >= 2
