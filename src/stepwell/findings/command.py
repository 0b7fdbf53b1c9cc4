"""`stepwell findings`: the codes that the tools report."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from stepwell.terminal import print_facts


def findings(
    code: Annotated[str | None, typer.Argument(help="A code or a name, as C04 or best-rate-at-the-edge.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the codes that the tools report, or explain one: why the fault is harmful, what to do instead, an
    example."""
    from stepwell.findings.page import entry
    from stepwell.findings.table import find, table

    if code is not None and not as_json:
        print(entry(find(code)), end="")
        return
    checks = table().values() if code is None else [find(code)]
    print_facts([asdict(check) for check in checks], ("code", "name", "severity", "certainty", "looks_for"), as_json)
