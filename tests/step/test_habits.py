"""What is left in a loop by habit, batches in chunks, skipped updates in a row, losses that say nothing."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from stepwell.errors import UsageError
from stepwell.optimizers import SGD, AdamW, Lookahead
from stepwell.schedules import linear
from stepwell.step import ClipValue, Step
from tests.step.small import data, flat, loss, model
from tests.step.test_order import Distributed, Recorder, gradient

KINDS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "stepwell": lambda network: SGD(network.named_parameters(), lr=0.1),
    "torch": lambda network: torch.optim.SGD(network.parameters(), lr=0.1),
    "wrapper": lambda network: Lookahead(SGD(network.named_parameters(), lr=0.1)),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


# zero_grad, step and clipping by habit


@every_kind
@pytest.mark.parametrize("to_none", [True, False])
def test_zero_grad_between_micro_batches_is_refused(kind: str, to_none: bool) -> None:
    network = model()
    step = Step(KINDS[kind](network), accumulate=4)
    weights = flat(network)
    step(loss(network, *data()))
    step.optimizer.zero_grad(set_to_none=to_none)
    with pytest.raises(UsageError, match=r"the gradients of 1 micro-batches .* were dropped .* remove zero_grad\(\)"):
        step(loss(network, *data()))
    assert step.accumulated == 0
    assert torch.equal(flat(network), weights)
    assert [step(loss(network, *data())).updated for _ in range(4)] == [False] * 3 + [True]


def test_zero_grad_before_a_flush_is_refused() -> None:
    network = model()
    step = Step(KINDS["stepwell"](network), accumulate=4)
    step(loss(network, *data()))
    network.zero_grad()
    with pytest.raises(UsageError, match="were dropped"):
        step.flush()


@every_kind
def test_zero_grad_around_whole_updates_does_no_harm(kind: str) -> None:
    network, other = model(), model()
    steps = [Step(KINDS[kind](one), accumulate=2) for one in (network, other)]
    for seed in range(4):
        if seed % 2 == 0:
            steps[0].optimizer.zero_grad()
        for step, one in zip(steps, (network, other), strict=True):
            step(loss(one, *data(seed=seed)))
    assert torch.equal(flat(network), flat(other))


@every_kind
def test_a_step_of_the_optimizer_within_an_accumulation_is_refused_before_it_acts(kind: str) -> None:
    network = model()
    step = Step(KINDS[kind](network), accumulate=2)
    weights = flat(network)
    step(loss(network, *data()))
    with pytest.raises(UsageError, match=r"optimizer.step\(\) after 1 of 2 micro-batches would apply a partial update"):
        step.optimizer.step()
    assert torch.equal(flat(network), weights)
    assert step(loss(network, *data())).updated


@every_kind
def test_a_step_of_the_optimizer_beside_the_step_is_said_once(kind: str) -> None:
    network = model()
    step = Step(KINDS[kind](network))
    step(loss(network, *data()))
    with pytest.warns(
        UserWarning, match=r"optimizer.step\(\) was called outside the Step, which calls the optimizer itself"
    ):
        step.optimizer.step()
    step(loss(network, *data()))
    step.optimizer.step()
    optimizer = step.optimizer
    del step
    gc.collect()
    loss(network, *data()).backward()
    optimizer.step()  # a plain loop afterwards


def test_gradients_changed_between_micro_batches_are_said() -> None:
    network = model()
    step = Step(KINDS["stepwell"](network), accumulate=3)
    step(loss(network, *data()))
    nn.utils.clip_grad_norm_(network.parameters(), 0.1)
    with pytest.warns(UserWarning, match="the gradient of '0.weight' was changed between two micro-batches"):
        step(loss(network, *data()))
    nn.utils.clip_grad_norm_(network.parameters(), 0.1)
    assert step(loss(network, *data())).updated


# Hooks see what the update takes


@pytest.mark.parametrize("kind", ["stepwell", "wrapper"])
def test_a_hook_before_the_step_sees_the_final_gradient(kind: str) -> None:
    seen: dict[str, list[float]] = {}
    ends = []
    for name in ("torch", kind):
        network = model()
        scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
        step = Step(KINDS[name](network), clip_norm=0.05, accumulate=2, scaler=scaler)
        rows = seen[name] = []

        def look(*_: Any, network: nn.Module = network, rows: list[float] = rows) -> None:
            rows.append(float(torch.cat([p.grad.reshape(-1) for p in network.parameters()]).norm()))  # type: ignore[union-attr]

        inside = getattr(step.optimizer, "base", step.optimizer)  # of a wrapper: that of the optimizer inside
        inside.register_step_pre_hook(look)
        for seed, weight in enumerate((1, 3)):
            step(loss(network, *data(seed=seed)), weight=weight)
        ends.append(flat(network))
    assert seen["torch"] == pytest.approx(seen[kind], rel=1e-5)
    assert seen["torch"] == pytest.approx([0.05], rel=1e-4)
    torch.testing.assert_close(ends[0], ends[1])


def test_hooks_of_all_optimizers_run() -> None:
    network, calls = model(), []
    handles = [
        register_optimizer_step_pre_hook(lambda *_: calls.append("before")),
        register_optimizer_step_post_hook(lambda *_: calls.append("after")),
    ]
    try:
        Step(KINDS["stepwell"](network))(loss(network, *data()))
    finally:
        for handle in handles:
            handle.remove()
    assert calls == ["before", "after"]


# Batches in chunks


@pytest.mark.parametrize("chunks", [2, 3, 4])
def test_several_calls_for_one_batch(chunks: int) -> None:
    """Each batch is one update, the last one, too."""
    network = model(dtype=torch.float64)
    recorder = Recorder(network.parameters())
    step = Step(recorder, accumulate=chunks)
    updated = []
    for seed in step.batches(range(4)):
        x, y = data(12, seed, dtype=torch.float64)
        parts = zip(x.chunk(chunks), y.chunk(chunks), strict=True)
        updated += [step(loss(network, *part)).updated for part in parts]
    assert updated == ([False] * (chunks - 1) + [True]) * 4
    for seed, found in enumerate(recorder.seen):
        torch.testing.assert_close(found, gradient(network, *data(12, seed, dtype=torch.float64)))


def test_a_pass_in_chunks_with_a_rest_is_updated_with_its_last_chunk() -> None:
    network = model()
    recorder = Recorder(network.parameters())
    step = Step(recorder, accumulate=4)
    updated = [step(loss(network, *data())).updated for _ in step.batches(range(5)) for _ in range(2)]
    assert [place for place, now in enumerate(updated) if now] == [3, 7, 9]


def test_batches_of_several_sizes_end_with_a_flush() -> None:
    network = model(dtype=torch.float64)
    recorder = Recorder(network.parameters())
    step = Step(recorder, accumulate=3)
    seeds, counts = iter(range(7)), iter([1, 2, 3, 1])
    for _ in step.batches(range(4)):
        for _ in range(next(counts)):
            step(loss(network, *data(12, next(seeds), dtype=torch.float64)))
    assert (len(recorder.seen), step.accumulated) == (3, 0)
    torch.testing.assert_close(recorder.seen[2], gradient(network, *data(12, 6, dtype=torch.float64)))


def test_every_chunk_of_the_last_batch_is_synchronised() -> None:
    network = Distributed(model())
    step = Step(SGD(network.parameters(), lr=0.1), accumulate=4, model=network)
    for _ in step.batches(range(5)):
        for _ in range(2):
            step(loss(network, *data()))
    assert network.forwards == ([False] * 3 + [True]) * 2 + [True] * 2


# Skipped updates in a row


def skip(step: Step, network: nn.Module, count: int) -> None:
    for _ in range(count):
        assert step(loss(network, *data()) * torch.nan).skipped


@pytest.mark.parametrize("clip", [None, ClipValue(0.1)])
@every_kind
def test_twenty_skipped_updates_in_a_row_warn_once_by_name(kind: str, clip: Any) -> None:
    network = model()
    step = Step(KINDS[kind](network), clip=clip)
    skip(step, network, 19)
    named = "'0.weight'" if kind != "torch" else "parameter number 0"
    with pytest.warns(UserWarning, match=f"20 updates in a row were skipped .* the first is that of {named}"):
        skip(step, network, 1)
    skip(step, network, 30)


def test_the_first_parameter_that_is_not_finite_is_named() -> None:
    network = model()
    step = Step(KINDS["stepwell"](network), linear(90, to=0.0), warn_skipped=2)
    network[2].bias.register_hook(lambda gradient: gradient * torch.inf)
    step(loss(network, *data()))
    with pytest.warns(UserWarning, match=r"2 updates in a row were skipped .* that of '2.bias'"):
        step(loss(network, *data()))


def test_an_update_ends_the_row() -> None:
    network = model()
    step = Step(KINDS["stepwell"](network))
    for _ in range(3):
        skip(step, network, 15)
        assert step(loss(network, *data())).updated


def test_the_normal_start_of_a_scaler_is_not_counted() -> None:
    network = model()
    step = Step(KINDS["stepwell"](network), scaler=torch.amp.GradScaler("cpu"))
    skip(step, network, 16 + 19)
    with pytest.warns(UserWarning, match="20 updates in a row"):
        skip(step, network, 1)
    step(loss(network, *data()))
    assert step.number == 1
    skip(step, network, 19)
    with pytest.warns(UserWarning, match="20 updates in a row"):
        skip(step, network, 1)


@pytest.mark.parametrize("limit", [0, -1, 2.5, True, "5"])
def test_warn_skipped_is_checked(limit: Any) -> None:
    with pytest.raises(UsageError, match=r"warn_skipped=.*; it must be a whole number of at least 1"):
        Step(KINDS["stepwell"](model()), warn_skipped=limit)


def test_it_can_be_left_out() -> None:
    network = model()
    skip(Step(KINDS["stepwell"](network), warn_skipped=None), network, 30)


# The loss that is shown


def test_a_micro_batch_of_weight_0_has_no_loss() -> None:
    network = model()
    step = Step(AdamW(network.named_parameters()), accumulate=2)
    x, y = data()
    step(loss(network, x, y), weight=torch.tensor(12))
    padding = nn.functional.cross_entropy(network(x), torch.full_like(y, -100))
    assert padding.isnan()
    done = step(padding, weight=torch.tensor(0))
    assert done.updated
    assert done.loss == pytest.approx(loss(model(), x, y).item())


def test_a_narrow_loss_does_not_overflow_in_the_mean() -> None:
    p = nn.Parameter(torch.ones(1))
    step = Step(SGD([p], lr=0.1), accumulate=2)
    for _ in range(2):
        done = step((p * 10.0).half().sum(), weight=40_000)
    assert done.updated
    assert done.loss == pytest.approx(10.0)
    q = nn.Parameter(torch.full((1,), 30_000.0))
    step = Step(SGD([q], lr=0.1), accumulate=4)
    for _ in range(4):
        done = step(q.half().sum())
    assert done.loss == pytest.approx(30_000, rel=1e-2)
