"""The page of all checks, `docs/findings.md`, and the entry of one check, which `stepwell findings CODE` prints."""

from __future__ import annotations

from collections.abc import Iterable

from stepwell.findings.check import Check

_HEAD = """# Findings

Every code that a stepwell tool reports. `stepwell findings CODE` prints one entry.
This page is printed from the checks: `python -m stepwell.findings.page > docs/findings.md`.

Severity: an *error* invalidates the result, a *warning* probably costs quality, a *note* is informative.
Certainty: a *certain* finding is almost certainly a fault, a *likely* finding may be intended, and *advice* is not
about a fault.
"""


def entry(check: Check) -> str:
    """The entry of one check, in Markdown."""
    parts = [
        f"## {check.code} {check.name}",
        f"{check.severity}, {check.certainty}",
        f"**Looks for:** {check.looks_for}.",
        f"**Why:** {check.why}.",
        f"**Instead:** {check.instead}.",
    ]
    if check.silent_when:
        parts.append(f"**Silent when:** {check.silent_when}.")
    parts += [f"Found:\n\n{_block(check.example_bad)}", f"Not found:\n\n{_block(check.example_good)}"]
    if check.reference:
        parts.append(f"Reference: {check.reference}")
    return "\n\n".join(parts) + "\n"


def page(checks: Iterable[Check]) -> str:
    """The whole page: a table of contents, then every entry."""
    checks = list(checks)
    rows = [
        f"| [{one.code}](#{one.code.lower()}-{one.name}) | {one.name} | {one.severity} | {one.certainty} |"
        for one in checks
    ]
    contents = "\n".join(["| code | name | severity | certainty |", "|---|---|---|---|", *rows])
    return "\n".join([_HEAD, contents, "", *map(entry, checks)])


def _block(example: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in example.strip("\n").splitlines())


if __name__ == "__main__":
    from stepwell.findings.table import table

    print(page(table().values()), end="")
