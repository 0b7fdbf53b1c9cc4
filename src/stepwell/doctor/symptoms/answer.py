"""The answer to a description: what was understood, the causes in order, the questions that are open."""

from __future__ import annotations

import textwrap
from dataclasses import asdict, dataclass
from typing import Any

WIDTH = 100  # characters of a line
_WORDS = ((0.75, "very likely"), (0.5, "likely"), (0.3, "possible"), (0.0, "less likely"))


@dataclass(frozen=True)
class Cause:
    """One possible cause of the symptom.

    Args:
        name: a short name that does not change: "lr-too-high".
        tier: "wiring", "learning rate", "numerical stability", "batch and data", "gradients and model", "progress" or
            "optimizer choice".
        title: the cause as a sentence.
        why: why this cause, with the given numbers.
        test: what to run or to look at, to confirm or refute the cause.
        fix: what to change; lines that begin with four spaces are code.
        likely: from 0 to 1, a rough weight to compare causes, and not a measured probability.
    """

    name: str
    tier: str
    title: str
    why: str
    test: str
    fix: str
    likely: float

    @property
    def likely_words(self) -> str:
        return next(words for least, words in _WORDS if self.likely >= least)


@dataclass(frozen=True)
class Answer:
    """What `ask` returns. `causes` are in the order in which to check them; `unknown` are the questions whose answers
    would change the causes most, the most decisive first."""

    understood: tuple[str, ...]
    causes: tuple[Cause, ...]
    unknown: tuple[str, ...]

    def text(self) -> str:
        """The answer for a terminal, in lines of at most 100 characters."""
        lines = [
            *_filled("Understood: ", "; ".join(self.understood)),
            "",
            "Check in this order, one at a time (bugs first, the choice of the optimizer last):",
        ]
        for number, cause in enumerate(self.causes, 1):
            lines += ["", *_filled(f"{number}. ", f"{cause.title} ({cause.tier}; {cause.likely_words})")]
            for label, said in (("why", cause.why), ("test", cause.test), ("fix", cause.fix)):
                lines += _filled(f"   {label:<6}", said)
        if self.unknown:
            lines += ["", "Not known yet, the most decisive first:"]
            for question in self.unknown:
                lines += _filled("   - ", question)
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """The answer as plain data for JSON."""
        return {
            "understood": list(self.understood),
            "causes": [asdict(cause) for cause in self.causes],
            "unknown": list(self.unknown),
        }


def _filled(label: str, text: str) -> list[str]:
    """The text after its label, broken at WIDTH with a hanging indent. Lines of code keep their form."""
    indent = " " * len(label)
    lines: list[str] = []
    for part in text.split("\n"):
        start = indent if lines else label
        if part.startswith("    "):
            lines.append(f"{start}{part if lines else part[4:]}")
        else:
            lines += textwrap.wrap(
                part, WIDTH, initial_indent=start, subsequent_indent=indent, break_long_words=False,
                break_on_hyphens=False,
            )  # fmt: skip
    return lines
