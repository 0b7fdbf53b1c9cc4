"""From words to facts: a description of a training problem is read with regular expressions."""

from __future__ import annotations

import re
from typing import Any

from stepwell.doctor.symptoms.facts import Facts
from stepwell.doctor.symptoms.known import SYMPTOMS, VAL
from stepwell.doctor.symptoms.spelling import corrected
from stepwell.doctor.symptoms.words import GOALS, KINDS, OPTIMIZER_WORDS, PRECISIONS, TOPICS
from stepwell.optimizers import TABLE

# a number, with "k" for thousand; not one that continues as "2m tokens" or "16gb"
_NUMBER = (
    r"(?P<number>10\^-\d+|(?:\d+(?:\.\d+)?|\.\d+)(?:e[-+]?\d+| ?(?:\*|x|·|×) ?10\^?\(?-\d+\)?)?)(?P<kilo>k)?"
    r"(?!\w|\.\d| ?(?:million|tokens))"
)
_OTHER_NUMBER = _NUMBER.replace("number", "other").replace("kilo", "thousand")  # a second one in an expression
_IS = r"(?:[\s=:(~]|size\b|is |was |of |to |at |equals |only |about |around |set )*"
_NOT_BEFORE = re.compile(
    r"\b(?:no|not|without|never|neither|nor|cannot|forgot(?: to call| the)?|missing|lacks?|skip(?:ped)?|disabled)"
    r"(?: (?:a|an|any|get|become|becomes|go|goes|to|show|the|have|see|use|used|using|call|called|calling|do|lr|rate"
    r"|learning|gradient|more|yet|been|being|seem|training|data|input|is|applied|added|apply|add)){0,3} $"
)
_NOT_AFTER = re.compile(
    r"^(?:\(\))? (?:is |was |are )?(?:missing|not (?:used|called|there|on|applied|set)|off\b|disabled|= ?false|none)"
)
_WORKS = r"(?:work|fine|ok|okay|stable|train|converg|good|well)\w*(?: \w+){0,2} (?:in|with|on|under|using) (?:pure )?"
_OPTIMIZERS = {name.lower(): name for name in TABLE}
_ORDINAL = {"first": 1, "second": 2, "third": 3, "fourth": 4, "fifth": 5, "tenth": 10}
_LARGEST = 1e15  # a number that is read; a larger one is no setting
_START, _EARLY = 20, 1000  # steps: of the start, and of the time of a usual warmup


def tidy(text: str) -> str:
    """The text in lower case, with typing errors corrected and "doesn't" as "does not"."""
    low = text.lower().replace("’", "'").replace("−", "-")
    low = re.sub(r"(?<=\d),(?=\d{3}\b)", "", low)
    for short, full in (("won't", "will not"), ("can't", "cannot"), ("n't", " not"), ("'s", ""), ("'", "")):
        low = low.replace(short, full)
    low = re.sub(r"\b(does|do|did|is|are|was|wo|ca|has|have)nt\b", r"\1 not", low)
    low = re.sub(
        r"(?<=[a-z])(?<!\de)[-_](?=[a-z0-9])|(?<=[0-9])-(?=[a-z])", " ", low
    )  # "batch_size", "8-bit", not "1e-3"
    low = re.sub(r"\b(?:optimizer|optim|opt|torch|nn|scaler|scheduler|loader)\.(?=[a-z])", "", low)
    return " ".join(corrected(low).split())


def read(description: str) -> Facts:
    """The facts of a description; `symptoms` is empty if none was understood."""
    text = tidy(description)
    for pattern, name in OPTIMIZER_WORDS:
        text = re.sub(rf"\b(?:{pattern})", f"{name} ", text)
    text = " ".join(text.split())
    optimizer, marked = _optimizer(description, text)
    step, moment = _moment(text)
    said = _said(text)
    decay = _number(text, r"(?:weight ?decay|\bwd\b)")
    return Facts(
        symptoms=_symptoms(marked),
        optimizer=optimizer,
        lr=_rate(text),
        batch=_batch(text),
        precision=_precision(text),
        kind=_first(KINDS, text),
        goal=_first(GOALS, text),
        moment=moment,
        step=step,
        momentum=_number(text, r"(?:\bmomentum|\bbeta ?_?1|\bbetas)"),
        weight_decay=decay,
        said=said,
    )


def moment_of(step: int) -> str:
    return "start" if step <= _START else "early" if step <= _EARLY else "late"


def _negated(text: str, start: int, end: int) -> bool:
    return bool(_NOT_BEFORE.search(text[max(0, start - 60) : start]) or _NOT_AFTER.match(text[end : end + 40]))


def _symptoms(text: str) -> tuple[str, ...]:
    found = []
    for name, symptom in SYMPTOMS.items():
        matches = [match for match in symptom.pattern.finditer(text) if not _negated(text, *match.span())]
        if name in _OF_TRAINING and any(_VALIDATION.search(text[: match.end()]) for match in matches):
            matches = [match for match in matches if not _VALIDATION.search(text[: match.end()])]
            if "overfits" not in found and not SYMPTOMS["val_noisy"].pattern.search(text):
                found.append("overfits")
        if matches and name not in found:
            found.append(name)
    return tuple(name for name in found if not any(_explains(other, name, text) for other in found))


# symptoms of the training loss, and the words before them that make them symptoms of validation
_OF_TRAINING = ("diverges", "stuck", "plateau", "spikes")
_VALIDATION = re.compile(rf"\b{VAL}(?: (?!train|and |but |while )\w+){{0,6}}$")

# a symptom -> those whose words it contains, though it says more
_SAYS_MORE = {
    "explode_grad": ("diverges",),
    "val_better": ("overfits",),
    "train_eval": ("overfits", "val_noisy"),
    "val_noisy": ("oscillates", "overfits"),
    "resume": ("periodic",),
    "drop_then_rise": ("diverges", "stuck"),
    "plateau": ("stuck",),
    "constant": ("stuck",),
    "gan_collapse": ("zero", "diverges"),
    "chance": ("constant",),
    "reward_flat": ("constant", "stuck", "not_working", "oscillates"),
    "zero": ("constant",),
    "step_time": ("slow",),
    "clips_always": (),
    "vanish": ("zero",),
    "memory_grows": ("diverges", "too_good"),
    "forgets": ("overfits",),
    "high_start": ("diverges",),
}


def _explains(other: str, name: str, text: str) -> bool:
    if name == "not_working":  # says less than any other
        return other != name
    if name == "drop_then_rise" and other == "overfits":
        return False
    return name in _SAYS_MORE.get(other, ()) and other != name


def _value(match: re.Match[str]) -> float | None:
    """The number of a match; None for one that is too large to be a setting."""
    number = match["number"].replace(" ", "")
    scaled = re.fullmatch(r"(?:([\d.]+)(?:\*|x|·|×))?10\^?\(?(-\d+)\)?", number)
    value = float(f"{scaled[1] or 1}e{scaled[2]}") if scaled and not re.fullmatch(r"[\d.]+", number) else float(number)
    value *= 1000 if match["kilo"] else 1
    return value if value <= _LARGEST else None


def _number(text: str, name: str) -> float | None:
    match = re.search(name + _IS + _NUMBER, text)
    return _value(match) if match else None


def _rate(text: str) -> float | None:
    name = r"\b(?:max |peak |base |initial |init )?(?:lr|learning ?rates?|step ?size|eta)\b"
    match = re.search(name + _IS + _NUMBER, text) or re.search(
        _NUMBER + r" (?:as )?(?:the )?(?:lr|learning rate)\b", text
    )
    return _value(match) if match else None


def _batch(text: str) -> int | None:
    name = r"(?<!at )(?<!after )(?<!in )(?<!first )\b(?:mini ?)?(?:batch(?:es)?(?: ?size)?s?|bs|bsz|batchsize)\b"
    match = re.search(name + _IS + _NUMBER, text) or re.search(
        _NUMBER + r" (?:samples|images|examples) (?:per|a) (?:batch|step)", text
    )
    value = _value(match) if match else None
    return int(value) if value is not None and value >= 1 and value == int(value) else None


def _precision(text: str) -> str | None:
    for failing in (re.sub(_WORKS + rf"(?:{'|'.join(PRECISIONS.values())})\b", " ", text), text):
        for name, words in PRECISIONS.items():
            if any(not _negated(failing, *match.span()) for match in re.finditer(rf"\b(?:{words})\b", failing)):
                return name
    return None


def _first(table: dict[str, str], text: str) -> str | None:
    for name, words in table.items():
        for match in re.finditer(rf"\b(?:{words})\b", text):
            if not _negated(text, *match.span()):
                return name
    return None


def _optimizer(description: str, text: str) -> tuple[str | None, str]:
    """The optimizer that is used, and the text with the names of optimizers as "@"."""
    # words of everyday English: names only as their papers write them
    english = {word for word in ("adopt", "sam", "mars", "soap", "lamb", "prodigy") if word.upper() not in description
               and word.title() not in description}  # fmt: skip
    folded = "|".join(sorted(map(re.escape, _OPTIMIZERS.keys() - english), key=len, reverse=True))
    name = rf"\b(?:{folded})\b(?!')"
    marked = re.sub(name, "@", text)
    failing = re.sub(_WORKS + f"(?:{folded})\\b", " ", text)
    switch = re.search(rf"\b(?:to|by|fails? with|but not with|not with|now) ({folded})\b", failing)
    if switch and re.search(r"switch|chang|swap|replac|mov|instead|fail|not with|now", failing):
        return _OPTIMIZERS[switch[1]], marked
    instead = re.search(rf"({folded}) instead of", failing)
    match = instead or re.search(rf"({name})", failing) or re.search(rf"({name})", text)
    return (_OPTIMIZERS[match[1]] if match else None), marked


def _moment(text: str) -> tuple[int | None, str | None]:
    step = re.search(
        rf"(?:after|at|around|by|until|past|about|from|till|nan|in)\s+(?:about |around |roughly |the first |~)?"
        rf"(?:(?:step|iteration|iter|update|batch)s?\s+{_NUMBER}|{_OTHER_NUMBER}\s*"
        r"(?:steps?|iterations?|iters?|updates?|batches))",
        text,
    )
    if step:
        count = float(step["number"] or step["other"]) * (1000 if step["kilo"] or step["thousand"] else 1)
        if count <= _LARGEST:
            return int(count), moment_of(int(count))
    ordinal = re.search(rf"\b({'|'.join(_ORDINAL)}) (?:step|iteration|update|batch)\b", text)
    if ordinal:
        return _ORDINAL[ordinal[1]], "start"
    if re.search(r"\bresum\w+|from (?:a |the )?checkpoint", text):
        return None, "resume"
    if re.search(
        r"\b(?:second|2nd|third|3rd|next|each|every|new) epoch|epoch [2-9]\b|epoch boundar|"
        r"(?:end|start) of (?:the|an|each|every) epoch",
        text,
    ):
        return None, "epoch"
    if re.search(r"from (?:the )?(?:very )?(?:beginning|start|outset|first)|immediately|right away|first (?:few "
    r")?(?:steps|iterations|updates|"
                 r"batches)|at the (?:very )?(?:start|beginning)|straight away|instantly", text):  # fmt: skip
        return None, "start"
    if re.search(r"early in|first epoch|in the first|during warmup", text):
        return None, "early"
    if re.search(r"after (?:a |some |few |many )*(?:while|hours?|days?|long time|epochs|\d+ "
    r"(?:hours?|days?|epochs?))|suddenly|late in|near the end|"
                 r"toward the end|mid training|many steps|epoch \d\d+", text):  # fmt: skip
        return None, "late"
    return None, None


def _said(text: str) -> dict[str, bool]:
    said: dict[str, bool] = {}
    for topic, words in TOPICS.items():
        matches = list(re.finditer(rf"\b(?:{words})(?!\w)", text))
        if matches:
            said[topic] = not any(_negated(text, *match.span()) for match in matches)
    if re.search(r"constant (?:lr|learning rate)", text):
        said["schedule"] = False
    return said


def settings(facts: Facts) -> dict[str, Any]:
    """The facts that are known, besides the symptoms."""
    named = {name: getattr(facts, name) for name in facts.__dataclass_fields__ if name not in ("symptoms", "said")}
    return {name: value for name, value in named.items() if value is not None} | dict(facts.said)
