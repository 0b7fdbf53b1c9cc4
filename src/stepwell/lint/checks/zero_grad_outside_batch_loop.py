"""Gradients that are reset once per epoch while weights move at every batch."""

from __future__ import annotations

from collections.abc import Iterator

from stepwell.findings import Check, Finding
from stepwell.lint.analysis import Event, Script
from stepwell.lint.analysis.relations import is_within, may_reset, may_touch

CHECK = Check(
    code="SW102",
    name="zero-grad-outside-batch-loop",
    severity="error",
    certainty="certain",
    looks_for="gradients are reset in the loop over epochs, and the optimizer steps in the loop over batches",
    why="after the first batch of an epoch each update uses the sum of the gradients of all its batches so far",
    instead="move zero_grad() into the loop over batches",
    silent_when="the step stands behind the loop over batches, so that an epoch is one accumulation",
    example_bad="for epoch in range(epochs):\n    optimizer.zero_grad()\n    for x, y in loader:\n"
    "        loss_fn(model(x), y).backward()\n        optimizer.step()",
    example_good="for epoch in range(epochs):\n    for x, y in loader:\n        optimizer.zero_grad()\n"
    "        loss_fn(model(x), y).backward()\n        optimizer.step()",
    reference="https://docs.pytorch.org/docs/stable/generated/torch.optim.Optimizer.zero_grad.html",
)
FIX = ""


def find(script: Script) -> Iterator[Finding]:
    for step, zero in script.for_every_caller("step", _outside):
        assert step.target is not None
        yield script.finding(
            CHECK,
            zero.node,
            f"gradients are reset here, but {step.target.name}.step() is called for every batch, in the loop of "
            f"line {getattr(step.loops[-1].node, 'lineno', 0)}",
            [(step.node, "this step sees the gradients of all batches since")],
        )


def _outside(step: Event) -> Event | None:
    """The reset that stands outside of the loop of a step, where there is none inside."""
    optimizer = step.target
    if optimizer is None or step.closure or step.name or len(step.loops) < 2:
        return None
    inner = step.loops[-1]
    if inner.once or inner.role != "batch" or not any(event.kind == "backward" for event in inner.events()):
        return None
    outside: Event | None = None
    for event in step.loops[0].events():
        if may_touch(event, optimizer):
            return None
        if may_reset(event, optimizer):
            if is_within(event, inner):
                return None
            if event.loops and event.loops[-1].role in ("epoch", "run", ""):
                outside = event
    return outside


BAD = (
    """
for epoch in range(10):
    optimizer.zero_grad()  # expect
    i = 0
    while i + batch_size < len(train_set):
        loss = criterion(model(train_set[i : i + batch_size]), targets[i : i + batch_size])
        loss.backward()
        optimizer.step()
        i += batch_size
""",
    CHECK.example_bad.replace("optimizer.zero_grad()", "optimizer.zero_grad()  # expect"),
    """
for epoch in tqdm(range(10)):
    model.train()
    model.zero_grad()  # expect
    for i, batch in enumerate(train_loader):
        loss = criterion(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
""",
    """
def train_epoch(model, loader, optimizer):
    for x, y in loader:
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
for epoch in range(5):
    optimizer.zero_grad()  # expect
    train_epoch(model, loader, optimizer)
""",
    """
class Trainer:
    def fit(self):
        for epoch in range(self.epochs):
            self.optimizer.zero_grad()  # expect
            for x, y in self.train_loader:
                loss = self.loss_fn(self.model(x), y)
                loss.backward()
                self.optimizer.step()
""",
    """
for epoch in range(num_epochs):
    optimizer.zero_grad()  # expect
    for step, batch in enumerate(dataloader):
        loss = model(**batch).loss
        accelerator.backward(loss)
        optimizer.step()
        lr_scheduler.step()
""",
)
GOOD = (
    CHECK.example_good,
    """
for epoch in range(epochs):
    optimizer.zero_grad()
    for x, y in loader:
        loss_fn(model(x), y).backward()
    optimizer.step()
""",
    """
for epoch in range(epochs):
    optimizer.zero_grad()
    for i, (x, y) in enumerate(loader):
        (loss_fn(model(x), y) / 4).backward()
        if (i + 1) % 4 == 0:
            optimizer.step()
            optimizer.zero_grad()
""",
    """
for batch in loader:
    optimizer.zero_grad()
    for head in heads:
        loss = loss_fn(head(batch), batch)
        loss.backward()
    optimizer.step()
""",
    """
for epoch in range(epochs):
    optimizer.zero_grad()
    for x, y in loader:
        loss = loss_fn(model(x), y)
        loss.backward()
        step_and_reset(optimizer)
        optimizer.step()
""",
)
