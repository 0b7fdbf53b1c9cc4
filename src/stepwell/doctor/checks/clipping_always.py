"""Every gradient is clipped, to a small fraction of its size."""

from __future__ import annotations

from stepwell.doctor.record import Record, median
from stepwell.doctor.said import said
from stepwell.doctor.traces import Trace
from stepwell.doctor.trends import ignores_scale
from stepwell.findings import Check, Finding

CHECK = Check(
    code="R23",
    name="clipping-always",
    severity="warning",
    certainty="certain",
    looks_for="every gradient is clipped, to a small fraction of its size",
    why="the threshold sets the length of all steps: with SGD the learning rate is multiplied by a number "
    "that nobody chose",
    instead='set the threshold near the 90th percentile of recent norms, or use clip="auto" of stepwell.Step',
    silent_when="the norms differ, or the optimizer does not mind the scale of gradients",
    example_bad="clip_grad_norm_(parameters, 1e-3)",
    example_good="clip_grad_norm_(parameters, 1.0), where norms are 0.3 to 2",
    reference="https://arxiv.org/abs/1211.5063",
)
TIER = 2
EARLIEST = 20
HOLDS = 1


def _is_below_epsilon(record: Record, norm: float) -> bool:
    """Whether gradients of this norm are so small that epsilon, and not their own size, divides them."""
    eps = record.groups[0][0].get("eps", 0.0) if record.groups and record.groups[0] else 0.0
    elements = sum(one.numel for one in record.parameters if one.optimizer == 0)
    return bool(elements) and isinstance(eps, float) and norm / elements**0.5 < 0.3 * eps


def _left(record: Record) -> float:
    """What is left of the gradients after clipping, in the median of the last updates that were looked at; 1.0 if that
    was not measured."""
    recent = [one.shrunk for one in record.samples_of() if one.shrunk is not None][-20:]
    return median(recent) if len(recent) >= 15 and sum(one < 0.9 for one in recent) >= 0.9 * len(recent) else 1.0


def find(record: Record) -> Finding | None:
    if not record.optimizers:
        return None
    left = _left(record)
    if left < (1e-4 if ignores_scale(record.optimizers[0]) else 0.02):
        return said(CHECK, record, f"clipping leaves {left:.1g} of the gradients, in nine of ten updates or more")
    norms = [norm for _, norm in record.norms[0] if norm > 0][-30:] if record.norms else []
    if len(norms) < 15 or (ignores_scale(record.optimizers[0]) and not _is_below_epsilon(record, max(norms))):
        return None
    top = max(norms)
    clipped = sum(abs(norm - top) < 2e-3 * top for norm in norms) / len(norms)
    if clipped < 0.9:
        return None
    return said(
        CHECK,
        record,
        (
            f"{100 * clipped:.0f} % of the last {len(norms)} gradients that were "
            f"looked at have the norm {top:.3g}: each of them is clipped"
        ),
    )


BAD = (
    Trace(optimizer="SGD", shrunk=0.019),
    Trace(optimizer="AdamW", shrunk=9e-5),
    Trace(optimizer="AdamW", norm=1e-9, options={"eps": 1e-8}),
    Trace(optimizer="SGD", norm=1e-3),
    Trace(optimizer="SGD", norm=lambda step: 0.5 if step % 50 == 0 else 1.0),  # two of thirty are shorter
    Trace(optimizer="SGD", norm=lambda step: 1.0 - 1e-3 * (step % 2)),
    Trace(optimizer="SGD", norm=lambda step: 1.0 + 0.0018 * (step % 2)),
)
GOOD = (
    Trace(optimizer="SGD", shrunk=0.021),
    Trace(optimizer="SGD", shrunk=lambda step: 0.01 if step % 5 else 1.0),
    Trace(optimizer="AdamW", shrunk=0.001),
    Trace(optimizer="SGD"),
    Trace(optimizer="SGD", norm=lambda step: 0.5 if step % 20 == 0 else 1.0),  # five of thirty
    Trace(optimizer="SGD", norm=lambda step: 1.0 + 0.0022 * (step % 2)),
    Trace(optimizer="AdamW", norm=1e-3),
    Trace(optimizer="SGD", norm=lambda step: 1.0 if step <= 14 else 0.0),  # too few to tell
)
