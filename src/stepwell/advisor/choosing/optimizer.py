"""The optimizer: a vote of the nearest published configurations and the consensus, unless the user names one."""

from __future__ import annotations

from collections import Counter

from stepwell.advisor.choice import Choice
from stepwell.advisor.choosing.ground import NEAR, Ground, surety
from stepwell.advisor.published import KINDS, kind_of
from stepwell.errors import unknown

# Published names that are bookkeeping around an optimizer of stepwell, or another name of the same.
OF_STEPWELL = {
    "NAG": "SGD", "SGD->ASGD": "SGD", "SkipStepAdamW": "AdamW", "NAdamW": "NAdam", "DecoupledAdamW": "AdamW",
    "paged_adamw_32bit": "AdamW", "RMSpropTF": "RMSprop", "Muon+AdamW": "Muon", "Muon+Adam": "Muon", "Dion": "Muon",
    "SophiaG": "Sophia", "L-BFGS": "LBFGS",
}  # fmt: skip


def stepwell_name(optimizer: str) -> str:
    """The optimizer of stepwell that a published name means.

    >>> stepwell_name("SkipStepAdamW"), stepwell_name("NAG")
    ('AdamW', 'SGD')
    """
    return OF_STEPWELL.get(optimizer, optimizer)


def named(text: str) -> str:
    """The optimizer with this name, as stepwell or a publication writes it. Raises UsageError for an unknown name."""
    from stepwell.optimizers import TABLE

    def folded(word: str) -> str:
        return "".join(c for c in word.lower() if c.isalnum())

    for name in TABLE:
        if folded(name) == folded(text):
            return name
    for names in KINDS.values():
        for name in names:
            if folded(name) == folded(text):
                return name
    alias = {"schedulefree": "ScheduleFreeAdamW", "sophiag": "Sophia", "momentum": "SGD", "nesterov": "SGD",
             "adam8bit": "AdamW8bit", "dion": "Dion", "8bitadam": "AdamW8bit"}  # fmt: skip
    if folded(text) in alias:
        return alias[folded(text)]
    raise unknown("optimizer", text, TABLE)


def choose(ground: Ground, asked: str | None = None, priority: str = "") -> Choice:
    """The optimizer, by its published name."""
    one = ground.situation
    if asked is not None:
        return _asked(ground, asked)
    if one.named_optimizer:
        name = named(one.named_optimizer)
        if ground.among(kind_of(name)):
            mine = [n for n, _ in ground.among(kind_of(name))]
            return Choice(
                mine[0].row.optimizer if kind_of(name) not in ("adam",) else name,
                f"the name {one.model!r} says {name}",
                (mine[0].row.id,),
                "high",
                "another name of the model",
            )
    kinds = ground.votes(lambda row: row.kind, lambda line: kind_of(line.optimizer))
    first = kinds[0]
    if "sparse" in one.traits and first.value == "adam":
        return Choice(
            "Adam" if "dense" in one.traits else "SparseAdam",
            "the model has sparse embeddings: the rows that a batch does not touch must not be read or decayed",
            ("selection guide of the seeds", "node2vec-cora"),
            "medium",
            "sparse=False in the embeddings",
        )
    if priority == "fast" and first.value == "sgd" and ground.among("adam") and one.regime == "from_scratch":
        return Choice(
            "AdamW",
            "a fast start was asked for: Adam-type optimizers fall faster at first. The published end results of "
            f"{_words(ground)} are from {_name(ground, str(first.value))}",
            tuple(n.row.id for n, _ in ground.among("adam")[:3]),
            "low",
            'priority="best"',
        )
    name = _name(ground, str(first.value))
    return Choice(
        name,
        _reason(ground, name, first.share),
        first.sources,
        surety(first.share, ground.nearest.distance),  # type: ignore[arg-type]
        _change(kinds[1].value if len(kinds) > 1 else None),
    )


def _asked(ground: Ground, asked: str) -> Choice:
    name = named(asked)
    mine = [n for n in ground.neighbors if stepwell_name(n.row.optimizer) == stepwell_name(name)]
    if name == "ASGD":
        mine = [n for n in ground.neighbors if "ASGD" in n.row.optimizer]
    if mine and mine[0].distance <= NEAR:
        return Choice(name, f"asked for; published near this: {mine[0]}", tuple(n.row.id for n in mine[:3]), "medium")
    if mine:
        said = f"asked for. No published setting near this; nearest is {mine[0]}"
        return Choice(name, said, (mine[0].row.id,), "low", "a published configuration of this optimizer nearby")
    said = (
        f"asked for. No published setting of {name} near this or anywhere in the collection; "
        f"nearest is {ground.nearest} with {ground.nearest.row.optimizer}"
    )
    return Choice(name, said, (ground.nearest.row.id,), "low", "a published configuration of this optimizer")


def _name(ground: Ground, kind: str) -> str:
    votes = ground.votes(lambda row: row.optimizer, lambda line: line.optimizer, kind)
    weight: Counter[str] = Counter()
    for vote in votes:
        weight[str(vote.value)] += vote.share  # type: ignore[assignment]
    return weight.most_common(1)[0][0]


def _words(ground: Ground) -> str:
    return ground.line.name if ground.line is not None else ground.nearest.row.model


def _reason(ground: Ground, name: str, share: float) -> str:
    near = ground.nearest
    said = (
        f"the nearest published configurations and the consensus for {_words(ground)} use it ({share:.0%} of the vote)"
    )
    if near.distance > NEAR:
        said += f"; none is near: the nearest is {near}"
    return said


def _change(second: object) -> str:
    return f"a situation nearer to those published with {second}" if second else ""
