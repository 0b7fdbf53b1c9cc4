"""The manual page of a check, and the list of all, made from the files of the checks."""

from __future__ import annotations

from types import ModuleType

from stepwell.errors import UsageError, closest, shown
from stepwell.findings import Check
from stepwell.lint.codes import names

_SAFETY = {
    "safe": "The fix is safe: what the program means is certain. `--fix` makes it.",
    "unsafe": "The fix is unsafe: it may change what the program means. `--fix --unsafe-fixes` makes it; read it.",
    "": "There is no fix.",
}


def module_of(word: str) -> ModuleType:
    """The file of a check, by its code or its name. Raises UsageError for one that is not there."""
    from importlib import import_module

    from stepwell.lint.checks import TABLE

    known = names()
    code, name = word.upper(), word.lower().replace("_", "-")
    for one, its_name in known.items():
        if code == one or name == its_name:
            return import_module(f"stepwell.lint.checks.{TABLE[one]}")
    near = closest(word, [*known, *known.values()])
    raise UsageError(
        f"there is no check {shown(word)}: {f'did you mean {near!r}? ' if near else ''}`stepwell lint --list` shows all"
    )


def page(module: ModuleType) -> str:
    """The manual page of a check, in Markdown."""
    check: Check = module.CHECK
    what = " ".join((module.__doc__ or check.looks_for).split())
    parts = [
        f"# {check.name} ({check.code})",
        f"{check.severity.title()}; {_when(check)}",
        f"## What it does\n\n{_sentence(what)}",
        f"## Why is this bad?\n\n{_sentence(check.why)}",
        f"## Example\n\n{_block(check.example_bad)}",
        f"## Use instead\n\n{_sentence(check.instead)}\n\n{_block(check.example_good)}",
        f"## Fix safety\n\n{_SAFETY[module.FIX]}",
    ]
    if check.silent_when:
        parts.append(f"## Silent when\n\n{_sentence(check.silent_when)}")
    if check.reference:
        parts.append(f"## References\n\n{check.reference}")
    return "\n\n".join(parts) + "\n"


def listed() -> str:
    """A line for each check: code, name, severity, when it is on, and its fix."""
    from stepwell.lint.checks import load

    rows = [("code", "name", "severity", "on", "fix")]
    for module in load():
        check: Check = module.CHECK
        on = {"certain": "by default", "likely": "--preview", "advice": "when selected"}[check.certainty]
        rows.append((check.code, check.name, check.severity, on, module.FIX or "-"))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n" for row in rows
    )


def manual() -> str:
    """The pages of all checks, one after the other."""
    from stepwell.lint.checks import load

    return "\n".join(page(module) for module in load())


def _when(check: Check) -> str:
    return {
        "certain": "on by default.",
        "likely": "on with `--preview`, or when its code is selected.",
        "advice": "advice, on when selected.",
    }[check.certainty]


def _sentence(clause: str) -> str:
    text = clause[:1].upper() + clause[1:]
    return text if text.endswith((".", "?", "!", ":")) else text + "."


def _block(example: str) -> str:
    text = example.strip("\n")
    return f"```python\n{text}\n```"


if __name__ == "__main__":
    print(manual(), end="")
