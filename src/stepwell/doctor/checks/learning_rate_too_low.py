"""The loss of a batch keeps falling at many times the update that this batch makes."""

from __future__ import annotations

from stepwell.doctor.record import Record
from stepwell.doctor.said import said
from stepwell.doctor.traces import ALONG, Trace
from stepwell.doctor.trends import too_low
from stepwell.findings import Check, Finding

CHECK = Check(
    code="R09",
    name="learning-rate-too-low",
    severity="warning",
    certainty="certain",
    looks_for="the loss of a batch keeps falling at many times the update that this batch makes",
    why="the run would take a hundred times as long as it needs",
    instead="multiply the learning rate by 10, or run find_lr",
    silent_when="the learning rate is being warmed up, or at the end of its decay, or a longer step does not lower "
    "the loss",
    example_bad="Adam(params, lr=1e-6)",
    example_good="Adam(params, lr=1e-3)",
    reference="https://arxiv.org/abs/1506.01186",
)
TIER = 3
EARLIEST = 30
HOLDS = 2


def find(record: Record) -> Finding | None:
    for number in range(len(record.optimizers)):
        seen = too_low(record, number)
        if seen:
            rate = max(record.lr[number][-1]) if record.lr[number] else 0.0
            return said(CHECK, record, f"at lr {rate:.3g} {seen}")
    return None


_TINY = {"*": {"update": 1e-5}}
_FAR = {0.0: 1.0, 1.0: 0.9999, 30.0: 0.997, 300.0: 0.96, 1000.0: 1.2}
_FARTHEST = {0.0: 1.0, 1.0: 0.99999, 1000.0: 0.999}
BAD = (
    Trace(lr=1e-6, loss=1.4, tensors=_TINY, along=_FAR, steps=35),
    Trace(lr=1e-6, loss=lambda step: 1.4 - 0.0055 * step, tensors={"*": {"update": 1.1e-4}}, along=_FAR, cosine=0.2),
    Trace(lr=1e-6, loss=1.4, tensors=_TINY, along={0.0: 1.0, 1.0: 0.9931, 30.0: 0.969, 100.0: 2.0}),
    Trace(lr=1e-6, loss=1.4, tensors=_TINY, along={0.0: 1.0, 1.0: 0.9999, 300.0: 0.99}),
    Trace(lr=1e-6, loss=1.4, tensors=_TINY, along=lambda step: ALONG if step == 60 else _FAR),
    Trace(lr=1e-7, loss=1.4, tensors={"*": {"update": 1.9e-5}}, along=_FARTHEST, cosine=0.0),
    Trace(lr=1e-6, loss=1.4, tensors=_TINY, along=_FAR, schedule={"kind": "StepLR", "calls": 1}),
)
GOOD = (
    Trace(lr=lambda step: 1e-6 * 1.0105**step, loss=1.4, tensors=_TINY, along=_FAR),  # a warmup
    Trace(lr=lambda step: 1e-3 if step < 12 else 2.9e-4, loss=1.4, tensors=_TINY, along=_FAR),  # the end of a decay
    Trace(lr=1e-6, loss=1.4, tensors=_TINY, along={0.0: 1.0, 1.0: 0.9999, 30.0: 0.971, 100.0: 2.0}),  # gains too little
    Trace(lr=1e-6, loss=1.4, tensors=_TINY, along={0.0: 1.0, 1.0: 0.9999, 300.0: 0.992}),
    Trace(
        lr=1e-6, loss=1.4, tensors=_TINY, along={0.0: 1.0, 1.0: 0.9929, 300.0: 0.9}
    ),  # the update itself gains enough
    Trace(lr=1e-6, loss=1.4, tensors=_TINY, along=_FAR, cosine=0.19),  # a longer one would learn the batch by heart
    Trace(lr=1e-6, loss=1.4, tensors={"*": {"update": 1.3e-4}}, along=_FAR),
    Trace(lr=1e-6, loss=lambda step: 1.4 - 0.006 * step, tensors=_TINY, along=_FAR),  # the loss falls
    Trace(lr=1e-6, loss=1.4, tensors=_TINY, along=_FAR, losses=2),
    Trace(lr=1e-6, loss=1.4, tensors=_TINY, along=_FAR, schedule={"kind": "OneCycleLR", "calls": 0}),
    Trace(lr=1e-6, loss=1.4, tensors=_TINY, along=_FAR, steps=11),
    Trace(lr=1e-6, loss=1.4, tensors=_TINY, along=lambda step: ALONG if step in (20, 60) else _FAR),
    Trace(lr=1e-7, loss=1.4, tensors={"*": {"update": 2.1e-5}}, along=_FARTHEST),
    Trace(lr=1e-7, loss=1.4, tensors=_TINY, along=_FARTHEST, losses=2),
)
