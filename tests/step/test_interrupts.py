"""After an interrupt at any moment of a call the run is before its update or after it, and every part agrees which."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import stepwell.step
from stepwell.optimizers import SGD, AdamW
from stepwell.schedules import linear
from stepwell.step import AutoClip, Step
from stepwell.step.interrupts import Held
from tests.step.small import data, flat, loss, model, same

SOURCE = Path(stepwell.step.__file__).parent
TRACED = {str(path) for path in SOURCE.glob("*.py")} | {str(SOURCE.parent / "engine" / "update.py")}

KINDS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "stepwell": lambda network: AdamW(network.named_parameters(), lr=0.1),
    "torch": lambda network: torch.optim.AdamW(network.parameters(), lr=0.1),
}


@pytest.fixture(autouse=True)
def _ctrl_c_raises() -> Iterator[None]:
    """In a shell's background SIGINT is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Run:
    """A run with all that an update touches, two updates in."""

    def __init__(self, kind: str, accumulate: int = 2) -> None:
        self.network = model()
        self.scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=3)
        self.step = Step(
            KINDS[kind](self.network),
            linear(50, to=0.1),
            clip=AutoClip(50, window=4),
            accumulate=accumulate,
            scaler=self.scaler,
            ema=0.5,
            model=self.network,
        )
        for seed in range(2 * accumulate + accumulate - 1):
            self.micro_batch(seed)

    def micro_batch(self, seed: int) -> Any:
        return self.step(loss(self.network, *data(seed=seed)))

    def seen(self) -> list[Any]:
        """All that an update changes."""
        optimizer, step = self.step.optimizer, self.step
        number = step.number
        state = [{k: torch.as_tensor(v).clone() for k, v in s.items()} for s in optimizer.state.values()]
        clip = {k: v.clone() for k, v in step.clip.state_dict().items()}  # type: ignore[union-attr]
        averages = [tensor.clone() for tensor in step.average.averages]  # type: ignore[union-attr]
        lr = optimizer.param_groups[0]["lr"]
        return [number, step.accumulated, flat(self.network), state, clip, averages, lr, self.scaler.state_dict()]


def interrupted(act: Callable[[], Any], at: int, files: set[str] = TRACED) -> bool:
    """Run `act`, with KeyboardInterrupt at the byte code number `at` of these files; whether it came so far."""
    left = at

    def trace(frame: Any, event: str, _: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename not in files:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        act()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.parametrize("kind", ["stepwell", pytest.param("torch", marks=pytest.mark.slow)])
def test_an_interrupt_at_any_byte_code_is_before_the_update_or_after_it(kind: str) -> None:
    """At every 101st byte code of a call that updates."""
    whole = Run(kind)
    whole.micro_batch(9)
    after, begun, before = whole.seen(), Run(kind).seen(), Run(kind).seen()
    before[1] = 0  # the accumulation is dropped
    sides, at = set(), 1
    while True:
        run = Run(kind)
        if not interrupted(lambda run=run: run.micro_batch(9), at):  # type: ignore[misc]
            break
        found = run.seen()
        side = next((name for name, state in named_states(before, begun, after) if same(found, state)), None)
        assert side is not None, f"byte code {at}"
        sides.add(side)
        run.step.flush()
        run.step.state_dict()
        at += 101
    assert {"before", "after"} <= sides
    assert at > 2000  # it came through the whole call


def named_states(*states: Any) -> list[tuple[str, Any]]:
    return list(zip(("before", "begun", "after"), states, strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_hook_that_raises_ends_the_call_on_its_side_of_the_update(kind: str, when: str) -> None:
    """The moment before the kernel, and the moment after it."""
    network = model()
    step = Step(KINDS[kind](network), linear(9, to=0.1), accumulate=2, ema=0.5)

    def stop(*_: Any) -> None:
        raise MemoryError

    for seed in range(3):
        step(loss(network, *data(seed=seed)))
    weights = flat(network)
    register = step.optimizer.register_step_pre_hook if when == "before" else step.optimizer.register_step_post_hook
    handle = register(stop)
    with pytest.raises(MemoryError):
        step(loss(network, *data(seed=3)))
    handle.remove()
    assert step.number == (1 if when == "before" else 2)
    assert torch.equal(flat(network), weights) == (when == "before")
    assert step.accumulated == 0
    assert all(p.grad is None for p in network.parameters())
    assert [step(loss(network, *data(seed=seed))).updated for seed in (4, 5)] == [False, True]


def test_the_gradient_of_an_update_that_was_made_is_not_applied_again() -> None:
    p = torch.nn.Parameter(torch.zeros(1))
    step = Step(SGD([p], lr=1.0))

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    handle = step.optimizer.register_step_post_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        step((p * 8).sum())
    handle.remove()
    assert not step.flush().updated
    assert step.number == 1
    done = step((p * 1).sum())
    assert (p.item(), done.grad_norm) == (-9.0, 1.0)


def test_a_failing_update_drops_its_micro_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    network = model()
    step = Step(KINDS["stepwell"](network), accumulate=2)
    step(loss(network, *data()))
    weights = flat(network)
    monkeypatch.setattr(step.optimizer, "update", lambda *_: torch.empty(2**62))
    with pytest.raises(RuntimeError):  # out of memory
        step(loss(network, *data()))
    monkeypatch.undo()
    assert (step.accumulated, step.number) == (0, 0)
    assert torch.equal(flat(network), weights)
    assert [step(loss(network, *data(seed=seed))).updated for seed in (4, 5)] == [False, True]


def test_a_hook_may_ask_for_the_number_during_an_update() -> None:
    network = model()
    step = Step(KINDS["stepwell"](network), linear(9, to=0.1), accumulate=2)
    asked = []
    step.optimizer.register_step_post_hook(lambda *_: asked.append((step.number, step.accumulated)))
    for seed in range(4):
        step(loss(network, *data(seed=seed)))
    assert asked == [(0, 2), (1, 2)]
    assert step.number == 2


def test_a_signal_during_an_update_waits_until_it_is_whole() -> None:
    network = model()
    step = Step(KINDS["torch"](network), linear(9, to=0.1), ema=0.5)
    inside = []

    def press(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        inside.append(len(inside))  # the handler would have run by now

    step.optimizer.register_step_pre_hook(press)
    handler = signal.getsignal(signal.SIGINT)
    for number in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            step(loss(network, *data()))
        assert (step.number, len(inside)) == (number, number)
    assert signal.getsignal(signal.SIGINT) is handler


def test_the_third_ctrl_c_gets_through() -> None:
    came = 0

    def press() -> None:
        nonlocal came
        with Held():
            for _ in range(5):
                os.kill(os.getpid(), signal.SIGINT)
                came += 1

    with pytest.raises(KeyboardInterrupt):
        press()
    assert came == 2


def test_a_closure_can_be_interrupted() -> None:
    network = model()
    step = Step(torch.optim.LBFGS(network.parameters(), max_iter=3))
    step.closure(lambda: loss(network, *data()))
    weights, calls = flat(network), []

    def compute() -> torch.Tensor:
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return loss(network, *data())

    with pytest.raises(KeyboardInterrupt):
        step.closure(compute)
    assert torch.equal(flat(network), weights)
    assert step.number == 1
