"""Public text (docstrings, messages, help, README, docs, examples) has no words that a stranger must read twice.

The reader knows torch and reads a page once. So the text uses the terms of torch's documentation and American spelling,
and repeats the noun instead of a pronoun. `docs/glossary.md` defines the project's own terms.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "stepwell"
PAGES = ("README.md", "CONTRIBUTING.md", "docs/findings.md", "docs/glossary.md", "docs/kernel-cache.md")
PAGES += ("docs/security.md", "docs/exercises.md")
# Their text is part of the digest of every compiled kernel: a changed word would compile all of them again.
DIGESTED = ("engine/blocks.py", "engine/randomness.py", "engine/kernels/cpu_intrinsics.py")
# Their text was written before this list; docs/optimizers.md, docs/contract.md and docs/compatibility.md come from it.
OLDER = ("optimizers/", "wrappers/", "lint/", "doctor/")

# What must not be written, and what to write instead.
BANNED = {
    "anew": "again, new, recompute, restart",
    "beside": "next to, in addition to, besides",
    "go on|goes on|gone on|going on|went on": "continue, resume",
    r"(?<!there )(?:is|are) none": "is not a ...",
    "of (?:its|their) own": "its own ..., a separate ...",
    "(?:has|have) no like": "has no equivalent",
    "what is around|what wraps": "the wrappers",
    "at once": "together, immediately, at the same time",
    "for ever": "indefinitely",
    "hand(?:s|ed)? over": "pass",
    "(?:take|takes|taken|taking) in": "add, include",
    "what (?:it|they) (?:was|were)": "unchanged",
    "in the place of": "instead of, in place of",
    "shall": "must",
    "whoever": "a process, a caller",
    "the one right": "the correct",
    "misspelt": "misspelled",
    "labelled|modelled|travelled": "labeled, modeled, traveled",
    r"\w*colour\w*": "color",
    r"neighbour\w*|behaviour\w*|favour\w*": "neighbor, behavior, favor",
    r"\w*(?:initial|optim|normal|synchron|vector|special|orthogonal|serial|real|general|minim|maxim)is(?:e|ed|es|er|ers"
    r"|ing|ation|ations)": "-ize, -ization",
}
# The words of the list that may stand in one file, each with its reason.
JUSTIFIED: dict[tuple[str, str], str] = {}


def texts() -> Iterator[tuple[str, int, str]]:
    """(file, line, text) of public text."""
    for path in sorted(SOURCE.rglob("*.py")):
        name = path.relative_to(SOURCE).as_posix()
        if name in DIGESTED or name.startswith(OLDER):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
                yield name, node.lineno, node.value
    for path in sorted((ROOT / "examples").rglob("*.py")):
        yield path.relative_to(ROOT).as_posix(), 1, path.read_text()
    for page in PAGES:
        yield page, 1, (ROOT / page).read_text()


def found(words: str, text: str) -> list[str]:
    return [match.group() for match in re.finditer(rf"\b(?:{words})\b", text)]


@pytest.mark.parametrize(("words", "instead"), BANNED.items())
def test_public_text_has_plain_words(words: str, instead: str) -> None:
    places = [
        f"{name}:{line + text[: text.index(hit)].count(chr(10))}: {hit!r}"
        for name, line, text in texts()
        for hit in found(words, text)
        if (name, hit) not in JUSTIFIED
    ]
    assert not places, f"write instead: {instead}\n" + "\n".join(places)


def test_every_exception_is_needed() -> None:
    needed = {(name, hit) for name, _, text in texts() for words in BANNED for hit in found(words, text)}
    assert needed >= set(JUSTIFIED)


def test_the_list_finds_what_it_bans() -> None:
    """And leaves alone American spelling, and words that only contain a banned word."""
    bad = "begun anew beside it, what goes on; colours, initialised, an optimiser, synchronisation, is none of its own"
    assert sum(len(found(words, bad)) for words in BANNED) == 9
    good = (
        "renewed, besides, initialized, optimizer, optimistic, normal distribution, if there is none, its own, realism"
    )
    assert not [hit for words in BANNED for hit in found(words, good)]
