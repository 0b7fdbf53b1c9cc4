"""Most rectified units are 0 for all inputs."""

from __future__ import annotations

from stepwell.doctor.record import Record, median
from stepwell.doctor.said import said
from stepwell.doctor.traces import Trace
from stepwell.doctor.trends import early_ratio
from stepwell.findings import Check, Finding

CHECK = Check(
    code="R24",
    name="dead-units",
    severity="warning",
    certainty="certain",
    looks_for="most rectified units are 0 for all inputs",
    why="a unit that is never active gets no gradient: it is lost for good",
    instead="lower the learning rate, check the biases and the initialization, or use a leaky rectifier or GELU",
    silent_when="at most 70 % of all units and 95 % of each layer are dead, or the updates are too long (R08)",
    example_bad="biases at -5 before ReLU",
    example_good="biases at 0",
    reference="https://arxiv.org/abs/1903.06733",
)
TIER = 3
EARLIEST = 5
HOLDS = 2


def find(record: Record) -> Finding | None:
    seen = record.dead[-5:]
    if len(seen) < 4 or early_ratio(record) > 0.2:  # weights that are thrown about: a higher cause, or none yet
        return None
    share, worst = median([one[1] for one in seen]), median([one[2] for one in seen])
    if share > 0.7 or worst > 0.95:
        return said(
            CHECK,
            record,
            (
                f"{100 * share:.0f} % of the rectified units are 0 for a "
                f"whole batch ({100 * worst:.0f} % in the worst layer)"
            ),
        )
    return None


BAD = (
    Trace(dead=(0.71, 0.9)),
    Trace(dead=(0.1, 0.96)),
    Trace(dead=lambda step: (0.0, 0.0) if step <= 80 else (0.9, 1.0)),
    Trace(dead=(0.8, 0.9), tensors={"*": {"update": 0.02}}, steps=5),
)
GOOD = (
    Trace(dead=(0.7, 0.95)),
    Trace(dead=(0.9, 1.0), steps=3),  # too few to tell
    Trace(dead=(0.9, 1.0), tensors={"*": {"update": 0.021}}),  # 0.21 of the weights: the learning rate is the cause
    Trace(dead=lambda step: (0.9, 1.0) if step <= 80 else (0.3, 0.9)),
    Trace(dead=None),
)
