"""Findings of a run: a place, what was seen, and the tensors it is about."""

from __future__ import annotations

from collections.abc import Sequence

from stepwell.doctor.record import Record
from stepwell.findings import Check, Evidence, Finding, Run, Tensor


def said(
    check: Check,
    record: Record,
    seen: str,
    tensors: Sequence[int] = (),
    evidence: Sequence[str] = (),
    instead: str = "",
) -> Finding:
    """A finding at this step. `tensors`: numbers of parameters; `evidence`: further observations."""
    here = Run(step=record.step)
    proofs = [Evidence(here, one) for one in evidence]
    proofs += [Evidence(Tensor(record.parameters[n].name, record.step), "one of these") for n in tensors[:3]]
    return Finding(check=check, place=here, seen=seen, evidence=tuple(proofs), instead=instead)
