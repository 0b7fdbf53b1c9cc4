"""Several backward passes are summed for one update, and their losses are not divided by their number."""

from __future__ import annotations

from stepwell.doctor.record import Record
from stepwell.doctor.said import said
from stepwell.doctor.traces import Trace
from stepwell.findings import Check, Finding

CHECK = Check(
    code="R06",
    name="accumulation-not-divided",
    severity="warning",
    certainty="certain",
    looks_for="several backward passes are summed for one update, and their losses are not divided by their number",
    why="the gradient is n times that of one large batch: SGD makes steps that are n times too long, and "
    "clipping and decay get another meaning",
    instead="divide each loss by the number of micro-batches before backward()",
    silent_when="each loss is divided before backward(), or a backward pass has a loss that the doctor was not told",
    example_bad="for micro in batches: criterion(model(x), y).backward(); optimizer.step()",
    example_good="for micro in batches: (criterion(model(x), y) / n).backward(); optimizer.step()",
    reference="https://docs.pytorch.org/docs/stable/notes/amp_examples.html#gradient-accumulation",
)
TIER = 0
EARLIEST = 4
HOLDS = 1


def find(record: Record) -> Finding | None:
    counts = record.backwards[1:12]
    if len(counts) < 3 or len(record.optimizers) != 1 or len(record.series) != 1:
        return None
    number = max(set(counts), key=counts.count)
    facts = record.series[0].facts
    if (
        number < 2
        or facts is None
        or (facts.divided if facts.factor is None else abs(facts.factor - number) < 0.01 * number)
        or not record.seeds
    ):
        return None
    told = sum(1 < step <= 1 + len(counts) for step in record.series[0].steps)
    last = number >= 4 and len(record.seeds) >= told >= len(counts)  # only the last micro-batch of each update is told
    if any(abs(seed - 1.0) > 1e-3 for seed in record.seeds) or (told < sum(counts) and not last):
        return None
    return said(
        CHECK,
        record,
        (
            f"{number} backward passes are summed for each update, each with the "
            f"gradient of a whole loss: the sum is {number} times the mean"
        ),
    )


BAD = (
    Trace(backwards=4, optimizer="SGD"),
    Trace(backwards=2, facts={"factor": 1.0}),  # the last operation is no division
    Trace(backwards=4, facts={"divided": True, "factor": 2.0}),  # a division by another number
    Trace(backwards=2, steps=4),
    Trace(backwards=4, told=1),
)
GOOD = (
    Trace(backwards=4, facts={"divided": True}),
    Trace(backwards=4, facts={"factor": 4.0}),
    Trace(backwards=4, seed=0.25),  # told before the division
    Trace(backwards=2, losses=2),  # two losses of one update are no micro-batches
    Trace(backwards=1),
    Trace(backwards=4, steps=3),
    Trace(backwards=2, facts={"factor": 1.99}),
    Trace(backwards=3, told=1),  # may be three losses of one batch
    Trace(backwards=4, seed=1.002),
    Trace(backwards=2, optimizer=("SGD", "SGD")),
)
