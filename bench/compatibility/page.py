"""`docs/compatibility.md`: written from outcomes, and read back by a test."""

from __future__ import annotations

import platform
import textwrap
from collections.abc import Mapping, Sequence

import torch

from compatibility.stand_in import STRICTER, WIDER
from compatibility.subjects import NONE, WORKS
from compatibility.verdicts import (
    ALLOWED,
    ALLOWED_KIND,
    ASKS,
    FAILED,
    KINDS,
    PASSED,
    SKIPPED,
    TORCHS_OWN,
    Verdict,
    counts,
)

BEGIN_TORCH, END = "## Torch's own tests", "<!-- end -->"

INTRO = """\
# What works together with stepwell

This page is printed by a program, from what the program ran. Nothing in it is written by hand:

    make compatibility                                    # all but torch's own tests, which stay as they are below
    make compatibility TORCH_TESTS=/path/to/pytorch/test  # everything; the folder is that of torch's sources

The program ends with 1 where a case of torch's fails that is not on the list at the end, or where something below
differs or fails.

torch {torch}, Python {python}; CPU, one thread, two processes (gloo) where processes are spread.

## Around an optimizer

Each cell is a short training: with the tool, and plainly. *works*: the weights are those of the plain run, bit for bit
(to rounding, where gradients or weights are summed over processes or compiled). *-*: the tool takes no such thing, or
was not installed. `AdamW int8` has `state="int8"`, `AdamW split` bf16 weights with `weights="split"`; `SAM(SGD)` and
`Lookahead(AdamW)` are wrappers.
"""

TORCH = """\
The cases of `test/test_optim.py` and `test/optim/` of torch {version}'s sources, run with these classes in the place of
torch's (`torch.testing._internal.common_optimizers.optim_db`, and `torch.optim` for the classic tests), and with
entries of our own for optimizers that torch does not have. {total:,} cases: {passed:,} pass; {failed} fail; {allowed}
fail and are on the list below. {others:,} ask for what is not here (in the table: "asks for"). Torch itself skips
{skipped}. {torchs} fail with torch's own class, too: the tests are of another release than the installed torch, and
torch's Muon takes no vectors.

Of errors the type is compared and not the words, which are ours. Stricter than torch: {stricter}. Wider than torch:
{wider}.
"""


def write(outcomes: Mapping[tuple[str, str], str], torch_section: str) -> str:
    """The page."""
    intro = INTRO.format(torch=torch.__version__, python=platform.python_version())
    return "\n".join([intro, *table(outcomes), "", torch_section.rstrip(), "", END, ""])


def table(outcomes: Mapping[tuple[str, str], str]) -> list[str]:
    """A row per check, a column per optimizer; what is longer than a word is a note below."""
    checks = list(dict.fromkeys(check for check, _ in outcomes))
    subjects = list(dict.fromkeys(subject for _, subject in outcomes))
    notes: dict[str, int] = {}
    lines = ["|  | " + " | ".join(subjects) + " |", "|---|" + "---|" * len(subjects)]
    for check in checks:
        cells = []
        for subject in subjects:
            found = outcomes.get((check, subject), NONE)
            word, _, rest = found.partition(": ")
            cells.append(f"{word} ({notes.setdefault(found, len(notes) + 1)})" if rest else found)
        lines.append(f"| {check} | " + " | ".join(cells) + " |")
    return [*lines, "", *(f"{number}. {found}" for found, number in notes.items())]


def outcomes_of(page: str) -> dict[tuple[str, str], str]:
    """What `table` wrote: (check, subject) -> outcome."""
    part = page.split("## Around an optimizer")[1].split(BEGIN_TORCH)[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in part if line.startswith("| ")]
    head = next(line for line in part if line.startswith("|  |"))
    subjects = [cell.strip() for cell in head.strip("| ").split(" | ")]
    notes = dict(line.split(". ", 1) for line in part if line[:1].isdigit())
    found = {}
    for check, *cells in (row for row in rows if row[0]):
        for subject, cell in zip(subjects, cells, strict=True):
            number = cell.partition(" (")[2].rstrip(")")
            found[check, subject] = notes[number] if number else cell
    return found


def torch_section(verdicts: Sequence[Verdict], version: str) -> str:
    """Torch's cases by optimizer, and the failures that are allowed."""
    rows = counts(verdicts)
    total = {kind: sum(row[kind] for row in rows.values()) for kind in KINDS}
    text = TORCH.format(
        version=version,
        total=len(verdicts),
        passed=total[PASSED],
        failed=total[FAILED],
        allowed=total[ALLOWED_KIND],
        others=sum(total[kind] for kind in ASKS),
        skipped=total[SKIPPED],
        torchs=total[TORCHS_OWN],
        stricter="; ".join(STRICTER.values()),
        wider="; ".join(WIDER.values()),
    )
    heads = [f"asks for {kind}" if kind in ASKS else kind for kind in KINDS]
    paragraphs = [textwrap.fill(part, 120, break_on_hyphens=False) for part in text.split("\n\n")]
    lines = [BEGIN_TORCH, "", "\n\n".join(paragraphs), "", "| | " + " | ".join(heads) + " |"]
    lines += ["|---|" + "---:|" * len(KINDS)]
    for of, row in sorted(rows.items(), key=lambda pair: (pair[0].startswith("Test"), pair[0].lower())):
        lines.append(f"| {of} | " + " | ".join(str(row[kind] or "") for kind in KINDS) + " |")
    lines += ["", "### Failures that are allowed", ""]
    lines += [f"- `{pattern}`: {reason}" for pattern, reason in ALLOWED.items()]
    failed = [verdict for verdict in verdicts if verdict.kind == FAILED]
    if failed:
        lines += ["", "### Failures", ""] + [f"- `{verdict.name}`: {verdict.why}" for verdict in failed]
    return "\n".join(lines)


def old_torch_section(page: str) -> str:
    """That of a page written before, or a line that says what is missing."""
    if BEGIN_TORCH not in page:
        return f"{BEGIN_TORCH}\n\nNot run."
    return BEGIN_TORCH + page.split(BEGIN_TORCH)[1].split(END)[0].rstrip()


def is_right(outcome: str) -> bool:
    """Whether an outcome needs nobody to look at it."""
    return outcome in (WORKS, NONE) or outcome.startswith("refused: ")
