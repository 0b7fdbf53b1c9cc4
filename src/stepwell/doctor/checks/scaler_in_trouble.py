"""The loss scaler halves its factor again and again."""

from __future__ import annotations

from itertools import pairwise

from stepwell.doctor.record import Record
from stepwell.doctor.said import said
from stepwell.doctor.traces import Trace
from stepwell.findings import Check, Finding

CHECK = Check(
    code="R14",
    name="scaler-in-trouble",
    severity="warning",
    certainty="certain",
    looks_for="the factor of a loss scaler falls in one step after the other, or below 1",
    why="each fall is an update that was left out, because a gradient was not finite: the run stands still, and the "
    "cause is not the scale",
    instead="look for the value that is not finite (a division, a log, an input), or use bf16, which needs no scaler",
    silent_when="the factor falls a few times at the start, as it does from 65536, or once in a while later",
    example_bad="the factor goes 65536, 32768, ..., 2, 1, 0.5",
    example_good="the factor goes 65536, 32768, 16384 and stays",
    reference="https://docs.pytorch.org/docs/stable/amp.html#torch.amp.GradScaler",
)
TIER = 2
EARLIEST = 0  # updates that are left out are not counted
HOLDS = 1
START = 8  # a factor of 65536 may be halved this often before gradients of a sound run fit


def find(record: Record) -> Finding | None:
    factors = list(record.seeds)
    if not record.scaled or len(factors) < START + 5:
        return None
    falls = [b < 0.75 * a for a, b in pairwise(factors)]
    row = next((n for n, fell in enumerate(reversed(falls)) if not fell), len(falls))
    low = factors[-1] < 1 and max(factors) >= 128
    often = len(falls) >= 40 and sum(falls[-30:]) > 6
    if not (low or row > START + 2 or often):
        return None
    return said(
        CHECK,
        record,
        f"the factor of the scaler fell {sum(falls)} times in the last {len(factors)} losses, from {max(factors):g} to "
        f"{factors[-1]:g}",
    )


BAD = (
    Trace(scaled=True, seed=lambda step: 128.0 / 2 ** (step // 6), steps=60),  # below 1, slowly
    Trace(scaled=True, seed=lambda step: 65536.0 / 2 ** max(step - 5, 0), steps=16),  # eleven in a row
    Trace(scaled=True, seed=lambda step: 1024.0 if step % 4 else 512.0),  # seven in thirty
)
GOOD = (
    Trace(scaled=True, seed=lambda step: 65536.0 / 2 ** min(step, 8)),
    Trace(scaled=True, seed=lambda step: 65536.0 / 2 ** max(step - 5, 0), steps=15),
    Trace(scaled=True, seed=lambda step: 1024.0 if step % 5 else 512.0),  # six in thirty
    Trace(scaled=True, seed=lambda step: 128.0 / 2 ** (step // 6), steps=47),  # 1 at last
    Trace(scaled=True, seed=0.5),  # a loss that is divided, and no scaler
    Trace(scaled=True, seed=lambda step: 128.0 / 2**step, steps=12),
    Trace(scaled=False, seed=lambda step: 128.0 / 2**step),
)
