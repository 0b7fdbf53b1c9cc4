"""What one batch of inputs and targets looks like."""

from __future__ import annotations

from typing import Any

import torch

from stepwell.doctor.record import BatchFacts

MOST = 1 << 20  # values of a batch that are looked at
LABELS = 4096


def first_tensor(args: Any, kwargs: Any = None) -> torch.Tensor | None:
    """The input of a model: its first argument that is a tensor with values."""
    for one in (*args, *(kwargs or {}).values()):
        if isinstance(one, torch.Tensor) and one.numel():
            return one
        if isinstance(one, dict):
            found = first_tensor(one.values())
            if found is not None:
                return found
        if isinstance(one, (list, tuple)) and one and isinstance(one[0], torch.Tensor):
            return one[0]
    return None


def facts(step: int, x: torch.Tensor | None, y: torch.Tensor | None) -> BatchFacts:
    one = BatchFacts(step)
    with torch.no_grad():
        if x is not None and not x.is_meta:
            _input(one, x.detach())
        if y is not None and not y.is_meta and isinstance(y, torch.Tensor) and y.numel():
            _target(one, y.detach())
            if x is not None:
                one.copied = _copied(x.detach(), y.detach())
    return one


def others(one: BatchFacts, x: torch.Tensor | None, args: Any, y: torch.Tensor | None) -> None:
    """What the further arguments of a model say about the target. `y`: the target, None where nobody knows it."""
    if y is None:
        repeated(one, args)
    elif x is not None:
        beside(one, x, args, y)


def repeated(one: BatchFacts, args: Any) -> None:
    """A model that computes its own loss, and is given one tensor of tokens as input and as target: `model(x, x)`. By
    name, as in `model(x, labels=x)`, the model shifts the target itself."""
    given = [arg for arg in args if isinstance(arg, torch.Tensor)]
    if len(given) < 2 or any(arg.is_floating_point() or arg.dim() < 2 for arg in given[:2]):
        return
    x, y = given[:2]
    if x.shape != y.shape or x.dtype != y.dtype or x.numel() < 8 or not bool((x == y).all()):
        return
    if int(x.reshape(-1)[:LABELS].unique().numel()) > 2:
        one.copied, one.target_size = -1, y.numel()


def beside(one: BatchFacts, x: torch.Tensor, args: Any, y: torch.Tensor) -> None:
    """Further inputs of a model, `model(users, items, side)`: one number for each example, which says the target."""
    if one.copied is not None or y.dim() == 0 or not 8 <= y.numel() == y.shape[0]:
        return
    with torch.no_grad():
        for arg in args:
            if not isinstance(arg, torch.Tensor) or arg is x or arg.is_meta or not arg.is_floating_point():
                continue
            if arg.shape[:1] == y.shape[:1] and arg.numel() == y.numel():
                column = arg.detach().reshape(-1, 1)
                if _copied(torch.cat([column, torch.ones_like(column)], dim=1), y.detach().reshape(-1)) == 0:
                    one.copied = 0


def _input(one: BatchFacts, x: torch.Tensor) -> None:
    one.size = x.shape[0] if x.dim() else 1
    if x.is_complex() or x.is_quantized:
        one.kind = "other"
        return
    if not x.is_floating_point():
        one.kind = "integer"
        return
    values = x.reshape(-1)[:MOST].float()
    one.finite = bool(torch.isfinite(values).all())
    if not one.finite:
        return
    one.mean, one.std = float(values.mean()), float(values.std()) if values.numel() > 1 else 0.0
    one.low, one.high = float(values.min()), float(values.max())
    if x.dim() == 2 and x.shape[0] > 7 and x.shape[1] > 1:
        columns = x[:, :512].float().std(dim=0)
        alive = columns[columns > 0]
        if alive.numel() > 1:
            one.spread = float(alive.max() / alive.median())


def _target(one: BatchFacts, y: torch.Tensor) -> None:
    one.target_size = y.numel()
    if y.is_floating_point():
        values = y.reshape(-1)[:MOST].float()
        if bool(torch.isfinite(values).all()):
            one.target_mean = float(values.mean())
            one.target_std = float(values.std()) if values.numel() > 1 else 0.0
            one.target_high = float(values.abs().max())
            one.alike = y.dim() == 2 and min(y.shape) > 1 and bool(torch.allclose(y, y[:1].expand_as(y), 0.0, 1e-6))
            if (
                y.dim() == 2
                and 1 < y.shape[1] <= 64
                and bool(((y == 0) | (y == 1)).all())
                and bool((y.sum(1) == 1).all())
            ):
                y = y.argmax(dim=1)
            elif (
                bool(((values == values.round()) & (values >= 0) & (values < 64)).all()) and values.numel() == y.numel()
            ):
                y = values.long()
            else:
                return
        else:
            return
    if not y.is_complex():
        found, counts = y.reshape(-1)[:LABELS].unique(return_counts=True)
        one.labels = {int(label): int(count) for label, count in zip(found, counts, strict=True) if int(label) != -100}


def _copied(x: torch.Tensor, y: torch.Tensor) -> int | None:
    """The column of the input that says the target, -1 for all of it, None for none."""
    if not x.is_floating_point():
        if x.dim() == 2 and y.dim() == 1 and x.shape[0] == y.shape[0] and not y.is_floating_point():
            return _token(x, y)
        if x.numel() == y.numel() and x.dim() >= 2 and not y.is_floating_point():
            y = y.reshape(x.shape)
            asked = y != -100
            same = (x == y) & asked
            some = int(asked.sum())
            return -1 if some >= 8 and int(same.sum()) == some and int(x.reshape(-1).unique().numel()) > 2 else None
        return None
    if x.dim() < 2 or x.shape[0] != y.shape[0]:
        return None
    if x.dim() > 2 and y.dim() >= x.dim() - 1 and y.shape[-1] > 1:
        return _channel(x, y)
    if x.shape[0] < 8:
        return None
    rows = x.reshape(x.shape[0], -1)[:, :4096].float()
    if y.dim() > 1 and y[0].numel() == 1:
        y = y.reshape(-1)
    if y.dim() == 2 and 1 < y.shape[1] <= 64 and y.is_floating_point():
        goals = y.float()
    elif y.dim() != 1:
        return None
    elif y.is_floating_point():
        goals = y.float().unsqueeze(1)
    else:
        labels = y.unique()
        if not 2 <= labels.numel() <= 64:
            return None
        goals = torch.cat([(y.unsqueeze(1) == labels).float(), y.float().unsqueeze(1)], dim=1)
    if not bool(torch.isfinite(rows).all()) or (rows.shape[1] == goals.shape[1] and bool((rows == goals).all())):
        return None
    enough = (goals != goals.mean(dim=0)).float().sum(dim=0) > 0
    a, b = rows - rows.mean(dim=0), goals - goals.mean(dim=0)
    a, b = a / a.norm(dim=0).clamp_min(1e-12), b / b.norm(dim=0).clamp_min(1e-12)
    often = torch.minimum((goals > goals.mean(dim=0)).sum(dim=0), (goals < goals.mean(dim=0)).sum(dim=0)) >= 3
    cosine = (a.t() @ b).abs() * (enough & often)
    column = int(cosine.max(dim=1).values.argmax())
    return column if float(cosine.max()) > 0.9999 else None


def _channel(x: torch.Tensor, y: torch.Tensor) -> int | None:
    """The channel of an input that is a target with a value for each of its places: a mask that was appended to the
    picture. An input without channels beside the target is what an autoencoder has."""
    if y.dim() == x.dim() and y.shape[1] == 1:
        y = y[:, 0]
    if y.dim() != x.dim() - 1 or x.shape[1] < 2 or y.shape[1:] != x.shape[2:] or x.shape[1] > 64:
        return None
    goal = y.reshape(-1)[:MOST].float()
    if goal.numel() < 64 or not bool(torch.isfinite(goal).all()) or float(goal.std()) == 0.0:
        return None
    goal = (goal - goal.mean()) / (goal - goal.mean()).norm()
    for number in range(x.shape[1]):
        own = x[:, number].reshape(-1)[:MOST].float()
        own = own - own.mean()
        if float(own.norm()) > 0 and abs(float(own @ goal)) > 0.9999 * float(own.norm()):
            return number
    return None


def _token(x: torch.Tensor, y: torch.Tensor) -> int | None:
    """The position of a token that says the label: one token for each label, and one label for each token."""
    labels = int(y.unique().numel())
    if labels < 3 or x.shape[0] < 4 * labels:
        return None
    high = int(y.max()) + 1
    for column in range(min(x.shape[1], 128)):
        tokens = x[:, column].long()
        if int(tokens.unique().numel()) == labels and int((tokens * high + y).unique().numel()) == labels:
            return column
    return None
