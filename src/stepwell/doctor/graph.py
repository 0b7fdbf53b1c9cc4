"""What the graph of a loss says: which parameters it depends on, and by which operations it ends."""

from __future__ import annotations

import re
from typing import Any

import torch

MOST = 20_000  # nodes that are looked at
_HARD = {"SqrtBackward0": "sqrt", "LogBackward0": "log", "Log1PBackward0": "log", "Log2Backward0": "log",
         "Log10Backward0": "log", "DivBackward0": "division", "LinalgVectorNormBackward0": "norm",
         "NormBackward0": "norm", "RsqrtBackward0": "rsqrt", "PowBackward0": "power", "StdBackward0": "std",
         "AcosBackward0": "acos", "ReciprocalBackward0": "division"}  # fmt: skip
_LOSS = {
    "NllLossBackward0": "nll_loss", "NllLoss2DBackward0": "nll_loss", "NllLossNdBackward0": "nll_loss",
    "MseLossBackward0": "mse_loss", "BinaryCrossEntropyBackward0": "binary_cross_entropy",
    "BinaryCrossEntropyWithLogitsBackward0": "binary_cross_entropy_with_logits", "L1LossBackward0": "l1_loss",
    "SmoothL1LossBackward0": "smooth_l1_loss", "HuberLossBackward0": "huber_loss", "KlDivBackward0": "kl_div",
}  # fmt: skip
_VIEWS = re.compile(
    r"^(View|Reshape|UnsafeView|Transpose|T|Permute|Squeeze|Unsqueeze|Slice|Select|Index|Clone|ToCopy|Expand|Alias|"
    r"Clamp|ClampMin|ClampMax|AsStrided|Cat|Flatten)Backward\d+$"
)


class Graph:
    """The nodes behind a loss, breadth first.

    Attributes:
        leaves: the tensors that gradients would be accumulated into, by id.
        function: the loss function at the root, or "".
        before: the operation that computed its input, views apart.
        alone: whether the loss is one term, and not a sum of several.
        hard: operations without a finite value or slope somewhere.
        relus: the nodes of ReLU, whose saved results say which units are 0.
    """

    def __init__(self, loss: torch.Tensor) -> None:
        self.leaves: dict[int, torch.Tensor] = {}
        self.names: list[str] = []
        self.relus: list[Any] = []
        self.function = self.before = ""
        self.divided = False
        self.alone = False
        self._root(loss)
        todo: list[Any] = [loss.grad_fn]
        seen: set[Any] = set()
        while todo and len(seen) < MOST:
            node: Any = todo.pop(0) if len(todo) < 64 else todo.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            name = type(node).__name__
            self.names.append(name)
            if name == "AccumulateGrad":
                self.leaves[id(node.variable)] = node.variable
            elif name == "ReluBackward0":
                self.relus.append(node)
            elif name in _LOSS and not self.function:
                self._loss(node, name)
            todo += [following for following, _ in node.next_functions]
        self.hard = tuple(dict.fromkeys(_HARD[name] for name in self.names if name in _HARD))

    def _root(self, loss: torch.Tensor) -> None:
        node: Any = loss.grad_fn
        name = type(node).__name__
        self.divided = (
            name in ("DivBackward0", "MulBackward0")
            and sum(following is not None for following, _ in node.next_functions) == 1
        )
        while re.match(r"^(Div|Mul|Mean|Sum|ToCopy|Squeeze|View|Clone)Backward\d+$", type(node).__name__):
            following = [one for one, _ in node.next_functions if one is not None]
            if len(following) != 1:
                break
            node = following[0]
        self.alone = not type(node).__name__.startswith(("Add", "Sub", "Mul", "Stack", "Sum"))

    def _loss(self, node: Any, name: str) -> None:
        self.function = _LOSS[name]
        following = node.next_functions[0][0] if node.next_functions else None
        while following is not None and _VIEWS.match(type(following).__name__):
            if type(following).__name__.startswith("Clamp"):
                self.before = "clamp"
                return
            following = following.next_functions[0][0] if following.next_functions else None
        self.before = _plain(following)
        if self.before == "log_softmax" and following is not None and following.next_functions:
            inner = following.next_functions[0][0]
            while inner is not None and _VIEWS.match(type(inner).__name__):
                inner = inner.next_functions[0][0] if inner.next_functions else None
            if _plain(inner) == "softmax":
                self.before = "log_softmax of softmax"
            elif _plain(inner) == "log_softmax":
                self.before = "log_softmax of log_softmax"


def _plain(node: Any) -> str:
    """LogSoftmaxBackward0 -> log_softmax."""
    name = re.sub(r"Backward\d*$", "", type(node).__name__) if node is not None else ""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def dead_share(relus: list[Any], most: int = 64) -> tuple[float, float] | None:
    """(share of units that are 0 for the whole batch, that of the worst layer), where the graph still has them."""
    shares, weights = [], []
    for node in relus[:most]:
        try:
            result = node._saved_result
        except RuntimeError:
            return None  # a backward pass has freed them
        if result.dim() < 2 or result.shape[0] < 8 or result.is_meta:
            continue
        units = result.detach()
        rows = units.flatten(2).amax(dim=2) if units.dim() > 2 else units
        alive = rows.amax(dim=0) if rows.dim() == 2 else rows
        shares.append(float((alive <= 0).float().mean()))
        weights.append(alive.numel())
    if not shares:
        return None
    return sum(s * w for s, w in zip(shares, weights, strict=True)) / sum(weights), max(shares)
