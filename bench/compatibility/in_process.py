"""What is around an optimizer in one process: copies, files, hooks, threads, schedulers, averages, parametrizations."""

from __future__ import annotations

import copy
import io
import pickle
import threading
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.optim import lr_scheduler
from torch.optim.swa_utils import SWALR, AveragedModel

from compatibility.subjects import (
    STEPS,
    Failed,
    Subject,
    batch,
    expect,
    expect_close,
    flat,
    loss_of,
    network,
    plain,
    start,
    step,
    train,
)


def deep_copies(subject: Subject) -> None:
    """A copy of network and optimizer together goes on as the first does."""
    model, optimizer = start(subject)
    train(optimizer, model, 0, 3)
    other, copied = copy.deepcopy((model, optimizer))
    train(optimizer, model, 3)
    train(copied, other, 3)
    expect(flat(other), plain(subject), "a copy")
    expect(flat(model), plain(subject), "what was copied")


def pickles(subject: Subject) -> None:
    model, optimizer = start(subject)
    train(optimizer, model, 0, 3)
    model, optimizer = pickle.loads(pickle.dumps((model, optimizer)))
    train(optimizer, model, 3)
    expect(flat(model), plain(subject), "from a pickle")


def saved_states(subject: Subject) -> None:
    """`torch.save` and `torch.load(weights_only=True)` of both state dicts."""
    model, optimizer = start(subject)
    train(optimizer, model, 0, 3)
    file = io.BytesIO()
    torch.save((model.state_dict(), optimizer.state_dict()), file)
    file.seek(0)
    weights, state = torch.load(file, weights_only=True)
    model, optimizer = start(subject)
    model.load_state_dict(weights)
    optimizer.load_state_dict(state)
    train(optimizer, model, 3)
    expect(flat(model), plain(subject), "from a file")


def threads(subject: Subject) -> None:
    """Four networks trained in four threads."""
    runs = [start(subject) for _ in range(4)]
    workers = [threading.Thread(target=train, args=(optimizer, model)) for model, optimizer in runs]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for model, _ in runs:
        expect(flat(model), plain(subject), "in a thread")


def step_hooks(subject: Subject) -> None:
    """Pre- and post-hooks run once a step, in this order, and change nothing."""
    model, optimizer = start(subject)
    seen: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    train(optimizer, model)
    expect(flat(model), plain(subject), "with hooks")
    expect(seen, ["before", "after"] * STEPS, "hooks")


def state_hooks(subject: Subject) -> None:
    """Hooks of `state_dict` and `load_state_dict`, before and after."""
    model, optimizer = start(subject)
    train(optimizer, model, 0, 3)
    seen: list[str] = []

    def mark(_: Any, state: dict[str, Any]) -> dict[str, Any]:
        return {**state, "mark": 7}

    optimizer.register_state_dict_pre_hook(lambda _: seen.append("saving"))
    optimizer.register_state_dict_post_hook(mark)
    optimizer.register_load_state_dict_pre_hook(lambda _, state: seen.append(f"loading {state['mark']}"))
    optimizer.register_load_state_dict_post_hook(lambda _: seen.append("loaded"))
    optimizer.load_state_dict(optimizer.state_dict())
    train(optimizer, model, 3)
    expect(seen, ["saving", "loading 7", "loaded"], "hooks")
    expect(flat(model), plain(subject), "with hooks")


SCHEDULERS: dict[str, Any] = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2, 0.5),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 4], 0.5),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda number: 1 / (1 + number)),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.02, total_steps=STEPS + 1),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.001, 0.01, 3, cycle_momentum=False),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, 1.0, 2), lr_scheduler.ExponentialLR(o, 0.9)], [2]
    ),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=0.5, patience=1),
}


def schedulers(subject: Subject) -> None:
    """The rates under ten schedulers are those of torch's SGD, and the scheduler's state goes on."""
    for name, make in SCHEDULERS.items():
        model, optimizer = start(subject)
        base = optimizer.param_groups[0]["lr"]
        other = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=base)
        found, wanted = [], []
        ours, theirs = make(optimizer), make(other)
        for number in range(STEPS):
            step(optimizer, model, *batch(number, subject.dtype))
            other.step()
            for scheduler in (ours, theirs):
                scheduler.step(*([1.0] if name == "ReduceLROnPlateau" else []))
            found.append(optimizer.param_groups[0]["lr"])
            wanted.append(other.param_groups[0]["lr"])
        expect(found, wanted, name)
        make(optimizer).load_state_dict(ours.state_dict())


def averages(subject: Subject) -> None:
    """`AveragedModel` is the mean of the weights, `SWALR` sets the rate."""
    model, optimizer = start(subject)
    average, swa, seen = AveragedModel(model), SWALR(optimizer, 0.001, 2), []
    for number in range(STEPS):
        step(optimizer, model, *batch(number, subject.dtype))
        average.update_parameters(model)
        swa.step()
        seen.append(flat(model))
    expect_close(flat(average.module), torch.stack(seen).mean(0), max(subject.close, 1e-6), "the average")
    expect(round(optimizer.param_groups[0]["lr"], 9), 0.001, "the rate")


def _like_torch(subject: Subject, change: Any) -> tuple[nn.Module, float, float]:
    """A network that was changed, trained; its loss before and after. Where torch has the optimizer, as by torch's."""
    model = network(subject.dtype)
    change(model)
    optimizer, probe = subject.make(model), batch(0, subject.dtype)
    before = float(loss_of(model, *probe))
    for _ in range(STEPS):
        step(optimizer, model, *probe)
    after = float(loss_of(model, *probe))
    other = network(subject.dtype)
    change(other)
    theirs = subject.torchs(other)
    if theirs is not None:
        for _ in range(STEPS):
            step(theirs, other, *probe)
        expect_close(flat(model), flat(other), TOLERANCE_OF_TORCH, "beside torch.optim")
    if not after < before:
        raise Failed(f"the loss went from {before:.2f} to {after:.2f}")
    return model, before, after


TOLERANCE_OF_TORCH = 1e-6


def parametrized(subject: Subject) -> None:
    """`weight_norm` of the middle layer."""
    _like_torch(subject, lambda model: parametrizations.weight_norm(model[2]))


def pruned(subject: Subject) -> None:
    """`prune.l1_unstructured` of the middle layer: what is masked stays 0."""
    model, _, _ = _like_torch(subject, lambda model: prune.l1_unstructured(model[2], "weight", 0.5))
    layer: Any = model[2]
    prune.remove(layer, "weight")
    expect(int((layer.weight == 0).sum()), 2048, "zeros")


def shared(subject: Subject) -> None:
    """Weights and state in shared memory, moved there in the middle of the run."""
    model, optimizer = start(subject)
    train(optimizer, model, 0, 3)
    model.share_memory()
    for state in optimizer.state.values():
        for value in state.values():
            if isinstance(value, Tensor):
                value.share_memory_()
    train(optimizer, model, 3)
    expect(flat(model), plain(subject), "in shared memory")


def from_meta(subject: Subject) -> None:
    """A network made on the meta device, `to_empty`, its weights loaded, then its optimizer."""
    with torch.device("meta"):
        model = network(subject.dtype)
    model.to_empty(device="cpu")
    model.load_state_dict(network(subject.dtype).state_dict())
    optimizer = subject.make(model)
    train(optimizer, model)
    expect(flat(model), plain(subject), "from meta")


def on_meta(subject: Subject) -> None:
    """The optimizer first, then `to_empty`, which makes other parameters: torch's steps do nothing from then on."""
    with torch.device("meta"):
        model = network(subject.dtype)
    optimizer = subject.make(model)
    model.to_empty(device="cpu")
    model.load_state_dict(network(subject.dtype).state_dict())
    train(optimizer, model)
    expect(flat(model), plain(subject), "the steps did nothing")


def scaled(subject: Subject) -> None:
    """`GradScaler`: a step is that without scaling, and one with an infinite gradient is skipped."""
    model, optimizer = start(subject)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=100)
    for number in range(STEPS):
        x, y = batch(number, subject.dtype)
        optimizer.zero_grad()
        scaler.scale(loss_of(model, x, y)).backward()
        scaler.step(optimizer)
        scaler.update()
    expect_close(flat(model), plain(subject), subject.close, "scaled")
    before = flat(model)
    next(model.parameters()).grad.fill_(torch.inf)  # type: ignore[union-attr]  # there after backward
    scaler.step(optimizer)
    scaler.update()
    expect(flat(model), before, "a step with an infinite gradient")
    expect(scaler.get_scale(), 2.0**9, "the scale")


def compiled_model(subject: Subject) -> None:
    """A compiled network, the optimizer outside."""
    model, optimizer = start(subject)
    train(optimizer, torch.compile(model, backend="aot_eager"))
    expect_close(flat(model), plain(subject), subject.close, "compiled")


def compiled_step(subject: Subject) -> None:
    """A compiled function that holds forward, backward and `optimizer.step()`: a graph break around the update."""
    model, optimizer = start(subject)

    @torch.compile(backend="aot_eager", fullgraph=False)
    def whole(x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model, x, y)
        loss.backward()
        optimizer.step()
        return loss

    @torch.compile(backend="aot_eager", fullgraph=False)
    def with_closure(x: Tensor, y: Tensor) -> None:
        step(optimizer, model, x, y)

    for number in range(STEPS):
        (with_closure if subject.takes_closure else whole)(*batch(number, subject.dtype))
    expect_close(flat(model), plain(subject), subject.close, "compiled")


QUICK = {
    "`copy.deepcopy`": deep_copies,
    "`pickle`": pickles,
    "`torch.save`, `torch.load(weights_only=True)`": saved_states,
    "threads": threads,
    "step hooks": step_hooks,
    "state dict hooks": state_hooks,
    "torch's schedulers": schedulers,
    "`AveragedModel`, `SWALR`": averages,
    "`parametrizations.weight_norm`": parametrized,
    "`prune`": pruned,
    "`share_memory_`": shared,
    "meta, `to_empty`, then the optimizer": from_meta,
    "the optimizer on meta, then `to_empty`": on_meta,
    "`GradScaler`": scaled,
}
COMPILED = {
    "`torch.compile(model)`": compiled_model,
    "`torch.compile` of the whole training step": compiled_step,
}
