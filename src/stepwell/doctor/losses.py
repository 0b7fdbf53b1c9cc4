"""What the calls before a loss say about it: its function, its input and its target."""

from __future__ import annotations

import torch

from stepwell.doctor.graph import Graph
from stepwell.doctor.program import Program
from stepwell.doctor.record import LossFacts

FUNCTIONS = ("cross_entropy", "nll_loss", "mse_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits",
             "l1_loss", "smooth_l1_loss", "huber_loss", "kl_div", "gaussian_nll_loss", "poisson_nll_loss",
             "cosine_embedding_loss", "triplet_margin_loss", "ctc_loss", "hinge_embedding_loss")  # fmt: skip


def facts(loss: torch.Tensor, program: Program | None, graph: Graph | None) -> tuple[LossFacts, torch.Tensor | None]:
    """(facts, target) of a loss."""
    one = LossFacts(requires_grad=loss.requires_grad)
    if graph is not None:
        one.function, one.before = graph.function, graph.before
        one.hard, one.divided = graph.hard, graph.divided
    call = _call(program)
    target: torch.Tensor | None = None
    if call is not None:
        name, given, target = call
        if name == "cross_entropy":
            one.function = "cross_entropy"
            if one.before.startswith("log_softmax of "):
                one.before = one.before.removeprefix("log_softmax of ")
            elif one.before == "log_softmax":
                one.before = "linear"
        elif not one.function or name == "nll_loss":
            one.function = name
        with torch.no_grad():
            _values(one, given.detach(), target)
    elif one.function == "nll_loss" and one.before.startswith("log_softmax"):
        one.function, one.before = "cross_entropy", one.before.removeprefix("log_softmax").removeprefix(" of ")
    if program is not None and program.calls:
        one.factor = _factor(program)
    if program is not None and one.broadcast is None:
        one.broadcast = _expanded(program) or _unlike(program)
    one.whole = graph is not None and graph.alone
    return one, target


def _call(program: Program | None) -> tuple[str, torch.Tensor, torch.Tensor | None] | None:
    """(function, input, target) of the last loss function that was called."""
    if program is None:
        return None
    for call in reversed(program.calls):
        if call.name in FUNCTIONS and call.args and isinstance(call.args[0], torch.Tensor):
            target = call.args[1] if len(call.args) > 1 else call.kwargs.get("target")
            return call.name, call.args[0], target if isinstance(target, torch.Tensor) else None
    return _difference(program)


def _difference(program: Program) -> tuple[str, torch.Tensor, torch.Tensor | None] | None:
    """An error that is written out: (output - y) ** 2, (y - output).abs()."""
    for index, call in enumerate(program.calls):
        if call.name not in ("__sub__", "sub", "__rsub__", "rsub") or len(call.args) < 2:
            continue
        a, b = call.args[:2]
        if not (isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor)):
            continue
        made = [id(one) in program.derived for one in (a, b)]
        if made == [True, True] or made == [False, False]:
            continue
        output, target = (a, b) if made[0] else (b, a)
        after = {one.name for one in program.calls[index + 1 : index + 4]}
        if target.requires_grad or target.numel() < 2 or not target.is_floating_point():
            continue
        if after & {"pow", "__pow__", "square", "norm"}:
            return "mse_loss", output, target
        if after & {"abs", "__abs__"}:
            return "l1_loss", output, target
    return None


def _factor(program: Program) -> float | None:
    """The number that the last call divides or multiplies by, as a divisor."""
    call = program.calls[-1]
    if len(call.args) < 2 or not isinstance(call.args[1], (int, float)) or not call.args[1]:
        return 1.0
    number = float(call.args[1])
    return number if "div" in call.name else 1 / number if "mul" in call.name else 1.0


def _values(one: LossFacts, given: torch.Tensor, target: torch.Tensor | None) -> None:
    if given.is_floating_point() and given.numel() and not given.is_meta:
        values = given.float()
        if bool(torch.isfinite(values).all()):
            one.input_range = (float(values.min()), float(values.max()))
            if values.dim() >= 2:
                one.classes = values.shape[1]
                one.logsumexp = float(values.logsumexp(dim=1).abs().max())
    if target is None:
        return
    if one.function in ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss") and given.shape != target.shape:
        one.broadcast = (tuple(given.shape), tuple(target.shape))
    if target.is_floating_point() and target.dim() >= 1 and target.numel() > 1 and target.shape == given.shape:
        low, high = target.min(), target.max()
        two = bool(((target == low) | (target == high)).all()) and bool(low < high)
        rows = target.dim() == 2 and target.shape[1] > 1
        alone = not rows or (bool((low == 0) & (high == 1)) and bool((target.sum(dim=1) == 1).all()))
        one.one_hot = two and alone and target.dim() <= 2 and target.numel() >= 8


def _unlike(program: Program) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Shapes (n, 1) and (n,) of any error in a sum of losses."""
    for call in program.calls:
        if call.name not in ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss") or len(call.args) < 2:
            continue
        a, b = call.args[:2]
        if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and a.shape != b.shape:
            return tuple(a.shape), tuple(b.shape)
    return None


def _expanded(program: Program) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Shapes (n, 1) and (n,) of a difference or product that became (n, n)."""
    for call in program.calls:
        if call.name not in ("__sub__", "sub", "__rsub__", "__mul__", "mul", "__truediv__") or len(call.args) < 2:
            continue
        a, b = call.args[:2]
        if not (isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and isinstance(call.result, torch.Tensor)):
            continue
        shapes = {tuple(a.shape), tuple(b.shape)}
        n = max(a.shape[0] if a.dim() else 0, b.shape[0] if b.dim() else 0)
        if n > 1 and shapes == {(n, 1), (n,)} and tuple(call.result.shape) == (n, n):
            return tuple(a.shape), tuple(b.shape)
    return None
