"""Momentum, betas and eps, by the vote of configurations with the same kind of optimizer."""

from __future__ import annotations

from stepwell.advisor.choice import Choice
from stepwell.advisor.choosing.ground import Ground, surety
from stepwell.advisor.consensus import Line
from stepwell.advisor.published import Published, kind_of

BETAS = ("adam", "lamb", "lion", "sophia", "prodigy", "schedule-free", "shampoo")


_README = "facebookresearch/schedule_free, README"


def choose(ground: Ground, optimizer: str) -> dict[str, Choice]:
    """momentum and nesterov, or betas, and eps: what the optimizer has."""
    kind = kind_of(optimizer)
    found: dict[str, Choice] = {}
    if kind in ("sgd", "lars", "rmsprop", "muon"):
        usual = 0.95 if kind == "muon" else 0.9
        found["momentum"] = _value(ground, kind, lambda row: row.momentum, lambda line: None, usual)
        if optimizer == "SGD->ASGD" or (kind == "rmsprop" and ground.situation.family in ("gan", "rl")):
            found["momentum"] = Choice(0.0, "published without momentum", (ground.nearest.row.id,), "medium")
    if optimizer == "ScheduleFreeSGD":
        found["momentum"] = Choice(0.9, "published: 0.9, and 0.95 to 0.98 for very long runs", (_README,), "medium")
    if kind == "sgd":
        nesterov = _value(ground, kind, _nesterov, lambda line: line.nesterov, False)
        if float(found["momentum"].value or 0) == 0:  # type: ignore[arg-type]
            nesterov = Choice(False, "there is no momentum", (), "high")
        found["nesterov"] = nesterov
    if kind in BETAS and optimizer not in ("Adan", "Shampoo", "ScheduleFreeSGD"):
        found["betas"] = _betas(ground, kind, optimizer)
    if kind in ("adam", "lamb", "rmsprop"):
        eps = _value(ground, kind, lambda row: row.eps, lambda line: line.eps, 1e-6 if kind == "lamb" else 1e-8)
        found["eps"] = eps
    if kind == "rmsprop":
        found["alpha"] = _value(ground, kind, lambda row: row.rmsprop_alpha, lambda line: None, 0.99)
    return found


def _nesterov(row: Published) -> bool | None:
    return True if row.optimizer == "NAG" else row.nesterov


def _value(ground: Ground, kind: str, of_row, of_line, usual) -> Choice:  # type: ignore[no-untyped-def]
    """The value with the heaviest vote, unless those who state one are few: then the usual value."""
    votes = ground.votes(of_row, of_line, kind)
    stated = sum(
        weight for neighbor, weight in ground.among(kind) if of_row(neighbor.row) is not None
    )  # silence mostly means the usual value
    line = ground.agreed(kind)
    if line is not None and of_line(line) is not None:
        stated += ground.weight
    total = sum(weight for _, weight in ground.among(kind)) + (ground.weight if line is not None else 0.0)
    if not votes or stated < 0.15 * total:
        return Choice(usual, "the default: near configurations do not state another value", (), "medium")
    best = votes[0]
    sure = surety(best.share, ground.nearest.distance)
    return Choice(best.value, "published near this", best.sources, sure)  # type: ignore[arg-type]


def _betas(ground: Ground, kind: str, optimizer: str) -> Choice:
    usual = {"Lion": (0.9, 0.99), "Sophia": (0.965, 0.99), "SOAP": (0.95, 0.95)}.get(optimizer, (0.9, 0.999))

    def of_row(row: Published) -> tuple[float, float] | None:
        if row.beta1 is None and row.beta2 is None:
            return None
        return (usual[0] if row.beta1 is None else row.beta1, usual[1] if row.beta2 is None else row.beta2)

    def of_line(line: Line) -> tuple[float, float] | None:
        first, second = line.betas
        if first is None and second is None:
            return None
        return (usual[0] if first is None else first, usual[1] if second is None else second)

    chosen = _value(ground, kind, of_row, of_line, usual)
    pair = chosen.value
    return Choice(
        list(pair),  # type: ignore[arg-type]
        chosen.reason,
        chosen.sources,
        chosen.sure,
        "the batch size: beta2 keeps its half-life in samples (2507.07101); a wide range of beta2 is near the optimum",
    )
