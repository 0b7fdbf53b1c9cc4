"""Which of the suspicions is said: the highest cause first, and nothing that it explains."""

from __future__ import annotations

import warnings
from typing import Any

from stepwell.doctor.record import Record
from stepwell.findings import Finding


class Diagnosis:
    """Asks the checks about a record. `findings` is what was said so far."""

    def __init__(self, record: Record) -> None:
        from stepwell.doctor.checks import load

        self.record = record
        self.checks = load()
        self.findings: list[Finding] = []
        self._held: dict[str, int] = {}
        self._broken: set[str] = set()

    def look(self) -> list[Finding]:
        """New findings, the highest cause first."""
        suspected: list[tuple[int, int, Any, Finding]] = []
        for order, module in enumerate(self.checks):
            if any(one.code == module.CHECK.code for one in self.findings):
                continue
            if self.record.step < module.EARLIEST and not self.record.ended and module.EARLIEST > 0:
                continue
            try:
                finding = module.find(self.record)
            except Exception as error:  # a fault of a check must not end the run that it looks at
                if module.CHECK.code not in self._broken:
                    self._broken.add(module.CHECK.code)
                    warnings.warn(
                        f"Doctor: the check {module.CHECK.code} failed and is left out: {error!r}", stacklevel=4
                    )
                continue
            held = self._held.get(module.CHECK.code, 0)
            self._held[module.CHECK.code] = held + 1 if finding is not None else 0
            if finding is not None and (held + 1 >= module.HOLDS or self.record.ended):
                suspected.append((module.TIER, order, module, finding))
        suspected.sort(key=lambda one: one[:2])
        new: list[Finding] = []
        for tier, _, module, finding in suspected:
            if self._is_explained(module, tier):
                continue
            new.append(finding)
            self.findings.append(finding)
        return new

    def _is_explained(self, module: Any, tier: int) -> bool:
        """Whether something that was said is the cause of this: any fault of a higher tier, and for all but errors any
        fault of the same one."""
        tiers = {one.CHECK.code: one.TIER for one in self.checks}
        causes = [tiers[said.code] for said in self.findings if said.severity != "note"]
        return any(one < tier or (one == tier and module.CHECK.severity != "error") for one in causes)
