"""Expressions are parsed, never evaluated, and refused in one line."""

from __future__ import annotations

import pytest

from stepwell.errors import UsageError
from stepwell.schedules import Schedule, constant, cosine, linear, multi_step, parse, warmup
from stepwell.schedules.expression import NAMES

READ: list[tuple[str, Schedule]] = [
    ("warmup(500).then(cosine(9500, to=0.1))", warmup(500).then(cosine(9500, to=0.1))),
    (" cosine(to = 1/10) ", cosine(to=0.1)),
    ("warmup(0.05).then(linear())", warmup(0.05).then(linear())),
    ("2 * constant(10) * 0.5", 2 * constant(10) * 0.5),
    ("multi_step([300, 2*300], gamma=-0.1*-1)", multi_step([300, 600], gamma=0.1)),
    (
        "cosine(10).hold().per_group({'head': 10, 0: linear(10)})",
        cosine(10).hold().per_group({"head": 10, 0: linear(10)}),
    ),
    ("constant().until(5).then(cosine(5)).between(0.1, 1)", constant().until(5).then(cosine(5)).between(0.1, 1)),
    ("warmup(5, 0.1, shape='cosine')", warmup(5, 0.1, shape="cosine")),
]


@pytest.mark.parametrize(("text", "schedule"), READ, ids=[text for text, _ in READ])
def test_reads(text: str, schedule: Schedule) -> None:
    assert parse(text) == schedule


REFUSED = [
    ("", "the schedule is empty"),
    ("cosin(500)", "unknown schedule 'cosin': did you mean 'cosine'?"),
    ("cosine", "'cosine' needs its arguments: cosine(steps=None, to=0.0)"),
    ("cosine(500, too=1)", "cosine has no argument 'too': did you mean 'to'?"),
    ("cosine(500, to=-1)", "to=-1; it must be a finite number, at least 0"),
    ("cosine(500, to=True)", "to=True; it must be a finite number"),
    ("cosine('500')", "steps='500'; it must be a whole number"),
    ("cosine(1, 2, 3)", "too many positional arguments; it is cosine(steps=None, to=0.0)"),
    ("exponential()", "missing a required argument: 'gamma'"),
    ("warmup(500).thn(cosine(3))", "has no method .thn(): did you mean 'then'?"),
    ("warmup(500).__class__()", "has no method .__class__()"),
    ("warmup(500).plot()", "has no method .plot()"),
    ("warmup(500).then(3)", "then(3); it must be a schedule"),
    ("cosine(5", "is not an expression at character 7"),
    ("cosine(5); 1", "is not an expression"),
    ("1 + 1", "is a number, not a schedule"),
    ("1 / 0", "division by zero"),
    ("1e308 * 1e308", "is too large"),
    ("2 ** 2", "cannot be used in a schedule"),
    ("cosine(5) + cosine(5)", "schedules can only be multiplied"),
    ("cosine(5) * 'a'", "multiplied by a number"),
    ("cosine(5) * True", "multiplied by a number"),
    ("__import__('os').system('true')", "unknown schedule '__import__'"),
    ("[cosine(5) for _ in (1,)]", "cannot be used in a schedule"),
    ("lambda: 3", "cannot be used in a schedule"),
    ("cosine(*[5])", "cannot be used in a schedule"),
    ("cosine(**{'steps': 5})", "cannot be used in a schedule"),
    ("cosine(5)(3)", "is not the name of a schedule"),
    ("from_function(print)", "unknown schedule 'from_function'"),
    ("(" * 500 + "cosine(5)" + ")" * 500, "is not an expression"),
    ("cosine(5)" + ".hold()" * 2000, "at most 4000 are read"),
    ("cosine(5)\0", "null"),
    ("cosine(5)\n)", "is not an expression"),
    ("cosine(5, to=0.1, to=0.2)", "gives 'to' twice"),
    ("cosine(5).per_group({'a': 2, **{'b': 3}})", "cannot be used in a schedule"),
    ("cosine(5).per_group(3)", "it must be a dict of factors by group"),
    (f"cosine({'9' * 400})", "at most 2^53"),
    (f"cosine(5) * {'9' * 400}", "it must be a finite number"),
    (f"cosine(5, to={'9' * 400})", "it must be a finite number"),
    (f"cosine(5, to={'9' * 400} * 9)", "is too large"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED, ids=[f"{text[:30]!a}" for text, _ in REFUSED])
def test_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_public_schedule_can_be_written_down() -> None:
    from stepwell import schedules

    functions = {name for name in schedules.__all__ if name[0].islower()}
    tools = {"apply", "draw", "initial_values", "parse", "resolve", "noam_peak", "from_function", "product_of"}
    assert functions - tools == set(NAMES)
