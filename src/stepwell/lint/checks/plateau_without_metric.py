"""ReduceLROnPlateau that is stepped without the metric that it watches."""

from __future__ import annotations

from collections.abc import Iterator

from stepwell.findings import Check, Finding
from stepwell.lint.analysis import Event, Script
from stepwell.lint.analysis.schedules import of_torch, receiver

CHECK = Check(
    code="SW204",
    name="plateau-without-metric",
    severity="error",
    certainty="certain",
    looks_for="ReduceLROnPlateau.step() is called without a metric",
    why="the call raises a TypeError at the first epoch",
    instead="pass the validation metric: scheduler.step(val_loss)",
    silent_when="another scheduler may be meant",
    example_bad="import torch\nscheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)\n"
    "for epoch in range(epochs):\n    val_loss = train_and_validate(model)\n    scheduler.step()",
    example_good="import torch\nscheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)\n"
    "for epoch in range(epochs):\n    val_loss = train_and_validate(model)\n    scheduler.step(val_loss)",
    reference="https://docs.pytorch.org/docs/stable/generated/torch.optim.lr_scheduler.ReduceLROnPlateau.html",
)
FIX = ""


def find(script: Script) -> Iterator[Finding]:
    for places in script.places("schedule"):
        if all(_is_bare(event) for event in places):
            event = places[0]
            made = event.target.made if event.target is not None else None
            proof = [(made, "it is a ReduceLROnPlateau")] if made is not None else []
            yield script.finding(CHECK, event.node, f"{receiver(event)}.step() is called without a metric", proof)


def _is_bare(event: Event) -> bool:
    bare = event.call is not None and not event.call.args and not event.call.keywords
    if event.target is None or not event.target.cls.endswith(
        "ReduceLROnPlateau"
    ):  # of branches that make others, it is ""
        return False
    return event.name == "step" and bare and of_torch(event.target)


_HEAD = "\nfrom torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR\nimport torch\n"
BAD = (
    CHECK.example_bad.replace("scheduler.step()", "scheduler.step()  # expect"),
    _HEAD
    + """
def train(model, loader, optimizer, scheduler):
    for epoch in range(3):
        for x, y in loader:
            optimizer.zero_grad()
            loss_fn(model(x), y).backward()
            optimizer.step()
        scheduler.step()  # expect
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scheduler = ReduceLROnPlateau(optimizer, "max")
train(model, loader, optimizer, scheduler)
""",
    _HEAD
    + """
class Trainer:
    def __init__(self, model):
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        self.scheduler = ReduceLROnPlateau(self.optimizer, patience=3)
    def fit(self):
        for epoch in range(10):
            self.train_epoch()
            self.scheduler.step()  # expect
""",
    _HEAD
    + """
import pytorch_lightning as pl
class Model(pl.LightningModule):
    def configure_optimizers(self):
        opt = torch.optim.Adam(self.parameters())
        return [opt], [ReduceLROnPlateau(opt)]
    def on_train_epoch_end(self):
        scheduler = self.lr_schedulers()
        scheduler.step()  # expect
""",
    _HEAD
    + """
scheduler = None
if args.plateau:
    scheduler = ReduceLROnPlateau(optimizer)
for epoch in range(10):
    train_epoch(model)
    if scheduler is not None:
        scheduler.step()  # expect
""",
)
GOOD = (
    CHECK.example_good,
    _HEAD
    + """
scheduler = ReduceLROnPlateau(optimizer) if args.plateau else StepLR(optimizer, 3)
for epoch in range(10):
    if isinstance(scheduler, ReduceLROnPlateau):
        scheduler.step(loss)
    else:
        scheduler.step()
""",
    _HEAD
    + """
scheduler = StepLR(optimizer, 3)
for epoch in range(10):
    scheduler.step()
""",
    _HEAD
    + """
class Plateau(ReduceLROnPlateau):
    def step(self):
        super().step(self.metric())
scheduler = Plateau(optimizer)
for epoch in range(10):
    scheduler.step()
""",
    _HEAD
    + """
if args.schedule == "plateau":
    scheduler = ReduceLROnPlateau(optimizer)
else:
    scheduler = StepLR(optimizer, 3)
for epoch in range(10):
    if args.schedule == "plateau":
        scheduler.step(metrics=loss)
    else:
        scheduler.step()
""",
)
