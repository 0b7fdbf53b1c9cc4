"""`ask`: from a description to causes in the order in which to check them, each with a test and a fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from stepwell.arguments import number, whole
from stepwell.doctor.symptoms import data, gradients, learning_rate, optimizer, progress, stability, wiring
from stepwell.doctor.symptoms.answer import Answer, Cause
from stepwell.doctor.symptoms.facts import Facts, rate
from stepwell.doctor.symptoms.known import NAMES, SYMPTOMS
from stepwell.doctor.symptoms.questions import open_questions
from stepwell.doctor.symptoms.reading import moment_of, read, settings
from stepwell.doctor.symptoms.record import FAR, SPEAKS, TIERS, Record, filled, likely
from stepwell.doctor.symptoms.words import GOALS, KINDS, PRECISIONS, TOPIC_TITLES
from stepwell.errors import UsageError, shown, unknown
from stepwell.optimizers import TABLE

MOST = 8  # causes of an answer
LEAST = 0.15  # a cause that is less likely is not listed; the choice of the optimizer is, from 0.1
LONGEST = 4000  # characters of a description; more is a log file, whose words mean other things
CAUSES: tuple[Record, ...] = tuple(
    cause for room in (wiring, learning_rate, stability, data, gradients, progress, optimizer) for cause in room.CAUSES
)
_LAST = TIERS[-1]


def ask(
    symptom: str,
    *,
    optimizer: str | None = None,
    lr: float | None = None,
    batch_size: int | None = None,
    precision: str | None = None,
    task: str | None = None,
    steps: int | None = None,
) -> Answer:
    """The possible causes of a training problem, from its description, in the order in which to check them.

    The order is that of the tiers: wiring, learning rate, numerical stability, batch and data, gradients and model,
    progress, and last the choice of the optimizer. Where a given number is far outside the usual ones, the causes for
    which a fact speaks come before those for which nothing speaks; the choice of the optimizer stays last.

    Args:
        symptom: what happens, in words; settings may be part of the description: "Adam, lr 0.1, loss oscillates".
        optimizer: name of an optimizer of the catalogue.
        lr: peak learning rate, at least 0.
        batch_size: samples per optimizer step.
        precision: "fp32", "fp16", "bf16" or "mixed".
        task: the kind of training in words: "gan", "fine-tuning", "image classification".
        steps: the step at which the symptom appears.

    A setting given by keyword overrides one of the description. Raises UsageError if the description has no known
    symptom, or for a setting that is not allowed.

    >>> answer = ask("Adam, lr 0.1, batch 8, fp16, loss oscillates")
    >>> [cause.name for cause in answer.causes[:3]]
    ['lr-too-high', 'fp16-overflow', 'batch-too-small']
    >>> answer.causes[0].why
    'Adam at lr 0.1 is 33 to 1,000 times the usual 1e-4 to 3e-3'
    """
    if not isinstance(symptom, str) or not symptom.strip():
        raise UsageError(
            f"symptom={shown(symptom)}; it must describe what happens in words, as 'loss is nan after 2000 steps'"
        )
    if len(symptom) > LONGEST:
        raise UsageError(
            f"symptom has {len(symptom):,} characters; it must be a description of at most {LONGEST:,}, not a log; say "
            "what happens in a few sentences"
        )
    facts = _with_keywords(read(symptom), optimizer, lr, batch_size, precision, task, steps)
    if not facts.symptoms:
        raise _not_understood(symptom, settings(facts))
    return Answer(
        understood=understood(facts),
        causes=tuple(_cause(record, facts, chance) for record, chance in ranked(facts)),
        unknown=open_questions(facts, CAUSES, chance_of),
    )


def known_symptoms() -> tuple[str, ...]:
    """The symptoms that `ask` understands, one sentence each."""
    return tuple(NAMES)


def _with_keywords(
    facts: Facts, optimizer: Any, lr: Any, batch_size: Any, precision: Any, task: Any, steps: Any
) -> Facts:
    given: dict[str, Any] = {}
    if optimizer is not None:
        given["optimizer"] = _named("optimizer", optimizer, TABLE)
    if lr is not None:
        given["lr"] = float(number("", "lr", lr, least=0, do="give the peak learning rate, as 3e-4"))
    if batch_size is not None:
        given["batch"] = whole("", "batch_size", batch_size, least=1, do="give the samples per optimizer step")
    if precision is not None:
        given["precision"] = _precision_named(precision)
    if task is not None:
        given |= _task(task)
    if steps is not None:
        given["step"] = whole("", "steps", steps, do="give the step at which the symptom appears")
        given["moment"] = facts.moment if facts.moment in ("epoch", "resume") else moment_of(given["step"])
    return replace(facts, **given)


def _folded(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "").replace(" ", "")


def _named(kind: str, given: Any, known: Iterable[str]) -> str:
    names = {_folded(name): name for name in known}
    if not isinstance(given, str) or _folded(given) not in names:
        raise unknown(kind, given, names.values())
    return names[_folded(given)]


def _precision_named(given: Any) -> str:
    from stepwell.doctor.symptoms.reading import _precision

    found = _precision(given.lower().replace("-", " ")) if isinstance(given, str) else None
    if found is None:
        raise unknown("precision", given, PRECISIONS)
    return found


def _task(given: Any) -> dict[str, str]:
    """The kind of training and the goal that words name."""
    words = read(given) if isinstance(given, str) and given.strip() else Facts()
    named = {"kind": words.kind, "goal": words.goal}
    if isinstance(given, str) and _folded(given) in map(_folded, KINDS):
        named["kind"] = next(kind for kind in KINDS if _folded(kind) == _folded(given))
    found = {name: value for name, value in named.items() if value is not None}
    if not found:
        raise unknown("task", given, [*KINDS, *GOALS])
    return found


def _not_understood(symptom: str, known: dict[str, Any]) -> UsageError:
    said = ", ".join(f"{name} {shown(value)}" for name, value in known.items())
    titles = {title.lower(): title for title in NAMES}
    near = difflib.get_close_matches(symptom[:100].lower(), titles, n=3, cutoff=0.3) or list(titles)[:5]
    return UsageError(
        f"symptom={shown(symptom)}; it must say what goes wrong"
        + (f" (only settings were understood: {said})" if known else "")
        + f"; the nearest known symptoms: {', '.join(repr(titles[title]) for title in near)}"
    )


def fit_of(record: Record, facts: Facts) -> float:
    """How well a cause fits the symptoms: the best of the special ones if there are any, else of all."""
    special = [name for name in facts.symptoms if SYMPTOMS[name].special]
    fit = max((record.fits.get(name, 0.0) for name in special or facts.symptoms), default=0.0)
    if special and not fit and record.weigh(facts) >= SPEAKS:
        return 0.5 * max(record.fits.get(name, 0.0) for name in facts.symptoms)
    return fit


def chance_of(record: Record, facts: Facts) -> float:
    return likely(fit_of(record, facts), record.weigh(facts))


def ranked(facts: Facts) -> list[tuple[Record, float]]:
    """At most MOST causes, in order, each with its likelihood."""
    fitting = [(record, chance_of(record, facts)) for record in CAUSES]
    fitting = [(record, chance) for record, chance in fitting if chance >= (0.1 if record.tier == _LAST else LEAST)]
    weights = {record.name: record.weigh(facts) for record, _ in fitting}

    def spoken(record: Record) -> bool:
        return weights[record.name] >= SPEAKS

    choices = sorted((one for one in fitting if one[0].tier == _LAST), key=lambda one: (not spoken(one[0]), -one[1]))[
        :2
    ]
    others = sorted((one for one in fitting if one[0].tier != _LAST), key=lambda one: (not spoken(one[0]), -one[1]))
    kept = others[: MOST - len(choices)]
    far = any(weights[record.name] >= FAR for record, _ in kept)

    def order(one: tuple[Record, float]) -> tuple[bool, int, float]:
        return (far and not spoken(one[0]), TIERS.index(one[0].tier), -one[1])

    return sorted(kept, key=order) + choices


def _cause(record: Record, facts: Facts, chance: float) -> Cause:
    why, test, fix = (filled(text, facts) for text in (record.why, record.test, record.fix))
    return Cause(record.name, record.tier, record.title, why, test, fix, min(0.99, chance))


_MOMENTS = {
    "start": "from the first steps",
    "early": "within the first 1,000 steps",
    "late": "late in the run",
    "epoch": "at an epoch's boundary",
    "resume": "after resuming",
}


def understood(facts: Facts) -> tuple[str, ...]:
    """The facts in words, the symptoms first."""
    said = [SYMPTOMS[name].title for name in facts.symptoms]
    named = (
        (facts.optimizer, "optimizer {}"),
        (None if facts.lr is None else rate(facts.lr), "lr {}"),
        (facts.batch, "batch {:,}"),
        (facts.precision, "precision {}"),
        (facts.kind, "training: {}"),
        (facts.goal, "goal: {}"),
        (None if facts.momentum is None else f"{facts.momentum:g}", "momentum {}"),
        (None if facts.weight_decay is None else f"{facts.weight_decay:g}", "weight decay {}"),
    )
    said += [words.format(value) for value, words in named if value is not None]
    if facts.step is not None:
        said.append(f"at step {facts.step:,}")
    elif facts.moment is not None:
        said.append(_MOMENTS[facts.moment])
    said += [f"{'with' if has else 'without'} {TOPIC_TITLES[topic]}" for topic, has in facts.said.items()
             if not (topic == "weight_decay" and facts.weight_decay is not None)]  # fmt: skip
    return tuple(said)
