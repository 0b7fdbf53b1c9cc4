"""The sweep: how existing finders fail (checks.md, part C), each failure a test; and everything is put back."""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler, TensorDataset

from stepwell.errors import UsageError
from stepwell.finder import find_lr
from stepwell.optimizers import LBFGS, SAM, SGD, AdamW, Lookahead, Sophia
from stepwell.schedules import Scheduler, linear
from stepwell.step import AutoClip, GaussNewtonBartlett, Hutchinson, Step
from stepwell.wrappers.swats import Swats
from tests.step.small import same


class Net(nn.Module):
    """Dropout, batch norm, a buffer outside the state_dict, and two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2))
        self.head = nn.Linear(16, 3)
        self.register_buffer("calls", torch.zeros(()), persistent=False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        self.calls = self.calls + 1  # replaced, not written
        return self.head(self.body(torch.cat([a, b], 1)))


def network() -> Net:
    torch.manual_seed(0)
    return Net()


def dataset(count: int = 256) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 6, generator=generator)
    return TensorDataset(x[:, :2], x[:, 2:], (x @ torch.randn(6, 3, generator=generator)).argmax(1))


def loader(**options: Any) -> DataLoader[Any]:
    return DataLoader(dataset(), batch_size=32, shuffle=True, **options)


def loss(model: nn.Module, batch: Any) -> Tensor:
    a, b, y = batch
    return nn.functional.cross_entropy(model(a, b), y)


def two_groups(model: Net, make: Any = SGD, **options: Any) -> Any:
    return make(
        [{"params": list(model.body.parameters()), "lr": 0.1}, {"params": list(model.head.parameters()), "lr": 0.01}],
        **options,
    )


OPTIMIZERS: dict[str, Any] = {
    "SGD": lambda p: SGD(p, lr=0.1, momentum=0.9),
    "AdamW": lambda p: AdamW(p, lr=0.1),
    "AdamW int8": lambda p: AdamW(p, lr=0.1, state="int8"),
    "torch SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "torch AdamW": lambda p: torch.optim.AdamW(p, lr=0.1),
    "SAM": lambda p: SAM(SGD(p, lr=0.1, momentum=0.9)),
    "Lookahead": lambda p: Lookahead(AdamW(p, lr=0.1), k=3, pullback="pullback"),
    "Lookahead of torch's": lambda p: Lookahead(torch.optim.SGD(p, lr=0.1), k=3),
    "Lookahead of SAM": lambda p: Lookahead(SAM(SGD(p, lr=0.1, momentum=0.9)), k=3),
    "Swats": lambda p: Swats(AdamW(p, lr=0.1)),
    "L-BFGS": lambda p: LBFGS(p, lr=0.1, max_iter=2, history_size=3, line_search_fn="strong_wolfe"),
    "torch tensor lr": lambda p: torch.optim.Adam(p, lr=torch.tensor(0.1), foreach=False, capturable=False),
}


def update(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Any) -> None:
    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(model, batch)
        value.backward()
        return value

    optimizer.step(closure)


def everything(model: nn.Module, optimizer: torch.optim.Optimizer, extra: Any = None) -> dict[str, Any]:
    """All that must be put back, copied."""
    groups = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    state = [dict(optimizer.state[p]) if p in optimizer.state else None for p in model.parameters()]
    content = {
        "weights": dict(model.state_dict()),
        "buffers": dict(model.named_buffers()),
        "modes": [module.training for module in model.modules()],
        "requires": [p.requires_grad for p in model.parameters()],
        "gradients": [p.grad for p in model.parameters()],
        "groups": groups,
        "state": state,
        "states": len(optimizer.state),
        "around": wrapped(optimizer),
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1].tolist(),  # noqa: NPY002
        "python": random.getstate(),
        "extra": extra,
    }
    return _copied(content)


def wrapped(optimizer: Any) -> list[Any]:
    """What wrappers keep."""
    if not hasattr(optimizer, "own"):
        return []
    own = list(optimizer.own.values())
    return [own, {name: getattr(optimizer, name) for name in optimizer.settings}, *wrapped(optimizer.base)]


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, (list, tuple)) else value


# Everything is put back


@pytest.mark.parametrize("trained", [False, True], ids=["fresh", "trained"])
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_everything_is_put_back_bit_for_bit(make: Any, trained: bool) -> None:
    model = network()
    optimizer = make(model.parameters())
    batches = loader()
    if trained:
        update(model, optimizer, next(iter(batches)))
        loss(model, next(iter(batches))).backward()  # gradients that somebody still needs
    model.eval()
    model.head.train()
    model.body[0].bias.requires_grad_(False)
    held = [p.grad for p in model.parameters()]
    before = everything(model, optimizer)
    result = find_lr(model, optimizer, batches, loss)
    assert result.curve.x
    assert same(everything(model, optimizer), before)
    assert all(p.grad is gradient for p, gradient in zip(model.parameters(), held, strict=True))
    if not trained:
        assert len(optimizer.state) == 0


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_run_goes_on_as_if_the_finder_had_not_been(make: Any) -> None:
    def run(interrupted_after: int | None) -> dict[str, Any]:
        model = network()
        optimizer = make(model.parameters())
        batches = loader()
        for number in range(4):
            if number == interrupted_after:
                find_lr(model, optimizer, batches, loss, iterations=20, orders=2)
            update(model, optimizer, next(iter(batches)))
        return everything(model, optimizer)

    straight = run(None)
    assert same(run(0), straight)
    assert same(run(2), straight)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_everything_is_put_back_after_an_interruption(error: type[BaseException]) -> None:
    model = network()
    optimizer = AdamW(model.parameters(), lr=0.1)
    before = everything(model, optimizer)
    calls = 0

    def failing(model: nn.Module, batch: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 45:  # in the second order
            raise error("stop")
        return loss(model, batch)

    with pytest.raises(error, match="stop"):
        find_lr(model, optimizer, loader(), failing)
    assert same(everything(model, optimizer), before)


def test_the_loader_and_its_generator_are_where_they_were() -> None:
    generator = torch.Generator().manual_seed(3)
    batches = loader(generator=generator)
    running = iter(batches)
    next(running)
    state = generator.get_state()
    model = network()
    find_lr(model, SGD(model.parameters()), batches, loss)
    assert torch.equal(generator.get_state(), state)
    assert sum(1 for _ in running) == 7


@pytest.mark.slow
def test_a_loader_with_persistent_workers_goes_on_where_it_was() -> None:
    batches = loader(num_workers=1, persistent_workers=True, multiprocessing_context="spawn")
    running = iter(batches)
    next(running)
    model = network()
    find_lr(model, SGD(model.parameters()), batches, loss, iterations=10, orders=1)
    assert sum(1 for _ in running) == 7


class Augmented(Dataset[Any]):
    """A data set with a generator of its own, as those that augment have, and a counter."""

    def __init__(self) -> None:
        self.inside = dataset()
        self.generator, self.reads = np.random.default_rng(0), 0

    def __len__(self) -> int:
        return len(self.inside)

    def __getitem__(self, place: int) -> Any:
        self.reads += 1
        a, b, y = self.inside[place]
        return a + float(self.generator.normal(0, 0.01)), b, y


class Shuffled(Sampler[int]):
    """A sampler that shuffles its list in place."""

    def __init__(self, count: int) -> None:
        self.order, self.drawn, self.passes = list(range(count)), random.Random(0), 0

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[int]:
        self.passes += 1
        self.drawn.shuffle(self.order)
        return iter(list(self.order))


@pytest.mark.parametrize("interrupted", [False, True])
def test_what_samplers_and_data_sets_remember_is_put_back(interrupted: bool) -> None:
    source, sampler = Augmented(), Shuffled(256)
    batches = DataLoader(source, batch_size=32, sampler=sampler)
    next(iter(batches))
    before = copy.deepcopy((vars(sampler), source.generator.bit_generator.state, source.reads))
    order, calls, model = sampler.order, 0, network()
    starts = set()

    def failing(model: nn.Module, batch: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls % 10 == 1:
            starts.add(float(batch[0][0, 0]))
        if interrupted and calls == 15:
            raise KeyboardInterrupt
        return loss(model, batch)

    with contextlib.suppress(KeyboardInterrupt):
        find_lr(model, SGD(model.parameters()), batches, failing, iterations=20, orders=2)
    assert len(starts) == 2  # each order begins with other data
    after = vars(sampler), source.generator.bit_generator.state, source.reads
    assert sampler.order is order
    assert sampler.drawn.getstate() == before[0].pop("drawn").getstate()
    assert {k: v for k, v in after[0].items() if k != "drawn"} == before[0]
    assert after[1:] == before[1:]


class Remembering(nn.Module):
    """A module with a counter, an average, a cache and a generator that are no buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = network()
        self.calls, self.mean, self.kept = 0, torch.zeros(3), torch.ones(1).expand(4)
        self.noise = torch.Generator().manual_seed(0)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        self.calls += 1
        result = self.body(a, b) + 0.01 * torch.rand(3, generator=self.noise)
        self.mean.lerp_(result.detach().mean(0), 0.1)
        self.cached = result.detach()
        return result


def test_what_modules_remember_beside_buffers_is_put_back() -> None:
    model = Remembering()
    mean, state = model.mean, model.noise.get_state()
    find_lr(model, SGD(model.parameters()), loader(), loss, iterations=10, orders=1)
    assert model.calls == 0
    assert model.mean is mean
    assert not mean.any()
    assert torch.equal(model.noise.get_state(), state)
    assert not hasattr(model, "cached")


def test_a_scaler_that_was_interrupted_between_unscaling_and_its_update_unscales_again() -> None:
    model = network()
    optimizer, scaler, calls = SGD(model.parameters(), lr=0.1), torch.amp.GradScaler("cpu"), 0

    def train(batch: Any) -> Tensor:
        nonlocal calls
        calls += 1
        optimizer.zero_grad()
        value = loss(model, batch)
        scaler.scale(value).backward()
        scaler.unscale_(optimizer)
        if calls == 5:
            raise KeyboardInterrupt
        scaler.step(optimizer)
        scaler.update()
        return value

    with pytest.raises(KeyboardInterrupt):
        find_lr(model, optimizer, loader(), train_step=train, also=[scaler])
    calls = 10
    train(next(iter(loader())))


def test_a_scaler_is_put_back() -> None:
    model = network()
    optimizer = SGD(model.parameters(), lr=0.1)
    for used in (False, True):
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
        if used:
            Step(optimizer, scaler=scaler)(loss(model, next(iter(loader()))))
        before = _copied(vars(scaler) | {"_per_optimizer_states": None})
        find_lr(model, optimizer, loader(), loss, scaler=scaler)
        assert same(_copied(vars(scaler) | {"_per_optimizer_states": None}), before)


def test_schedulers_are_put_back_and_do_not_forbid_the_finder() -> None:
    # torch-lr-finder refuses an optimizer that has met a scheduler, and runs only once
    model = network()
    optimizer = SGD(model.parameters(), lr=0.1)
    scheduler = Scheduler(optimizer, linear(100))
    optimizer.step()
    scheduler.step()

    def train_step(batch: Any) -> Tensor:
        optimizer.zero_grad()
        value = loss(model, batch)
        value.backward()
        optimizer.step()
        scheduler.step()
        return value

    before = (scheduler.state_dict(), optimizer.param_groups[0]["lr"])
    results = [
        find_lr(model, optimizer, loader(), train_step=train_step, also=[scheduler], iterations=30) for _ in range(2)
    ]
    assert (scheduler.state_dict(), optimizer.param_groups[0]["lr"]) == before
    assert results[0].curve == results[1].curve


@pytest.mark.parametrize("estimator", [None, Hutchinson(every=3), GaussNewtonBartlett(every=3)], ids=repr)
def test_estimates_of_the_hessian_are_made_and_leave_no_trace(estimator: Any) -> None:
    model = network()
    optimizer = Sophia(model.named_parameters())
    given = optimizer if estimator is None else Step(optimizer, estimator=estimator)

    def with_logits(model: Any, batch: Any) -> Any:
        logits = model(*batch[:2])
        return nn.functional.cross_entropy(logits, batch[2]), logits

    before = everything(model, optimizer)
    labels = estimator is not None and estimator.takes_logits
    results = [find_lr(model, given, loader(), with_logits if labels else loss, iterations=30) for _ in range(2)]
    assert results[0].curve == results[1].curve
    assert same(everything(model, optimizer), before)
    assert estimator is None or estimator.updates == 0
    if labels:
        with pytest.raises(UsageError, match="pass them as"):
            find_lr(model, given, loader(), loss, iterations=30)


def test_a_step_of_the_users_keeps_its_schedule_and_averages() -> None:
    model = network()
    step = Step(AdamW(model.parameters(), lr=0.1), linear(50), accumulate=2, clip=AutoClip(50), ema=0.9)
    for batch in list(loader())[:4]:
        step(loss(model, batch))
    before = everything(model, step.optimizer, [step.state_dict()[k] for k in ("number", "average", "clip", "skipped")])
    find_lr(model, step, loader(), loss)
    after = everything(model, step.optimizer, [step.state_dict()[k] for k in ("number", "average", "clip", "skipped")])
    assert same(after, before)


# What it does


def test_the_same_seed_gives_the_same_answer_and_another_another() -> None:
    model = network()
    optimizer = SGD(model.parameters(), lr=0.1)
    first, again, other = (find_lr(model, optimizer, loader(), loss, seed=seed) for seed in (0, 0, 7))
    assert first == again
    assert first.curve != other.curve
    assert first.orders[0] != first.orders[1]


def test_a_wrapper_has_the_rates_of_what_is_inside_and_its_own_steps() -> None:
    found = {}
    for make in (SGD, AdamW):
        model = network()
        result = find_lr(model, SAM(make(model.parameters(), lr=0.1), rho=0.0), loader(), loss)
        plain = network()
        alone = find_lr(plain, make(plain.parameters(), lr=0.1), loader(), loss)
        assert result.curve.x[0] == alone.curve.x[0]
        found[make] = result.suggestion, alone.suggestion
    assert found[SGD][0] > 3 * found[AdamW][0]
    model = network()
    with pytest.raises(UsageError, match="cannot be combined with accumulate=2"):
        find_lr(model, SAM(SGD(model.parameters(), lr=0.1)), loader(), loss, accumulate=2)


def test_at_most_a_hundred_updates_by_default() -> None:
    model = network()
    count = 0

    def counted(model: nn.Module, batch: Any) -> Tensor:
        nonlocal count
        count += 1
        return loss(model, batch)

    find_lr(model, SGD(model.parameters()), loader(), counted, high=1e-2)
    assert 90 <= count <= 100


def test_groups_keep_their_ratios() -> None:
    # Lightning writes one rate into all groups
    model = network()
    optimizer = two_groups(model)
    seen = []

    def watched(model: nn.Module, batch: Any) -> Tensor:
        seen.append([group["lr"] for group in optimizer.param_groups])
        return loss(model, batch)

    result = find_lr(model, optimizer, loader(), watched, low=1e-4, high=1.0, iterations=20, orders=1)
    assert [one / other for one, other in seen] == pytest.approx([10.0] * len(seen))
    assert [one for one, _ in seen] == pytest.approx(np.geomspace(1e-4, 1.0, 20)[: len(seen)])
    assert result.suggestion is None or result.group_lrs[1] == pytest.approx(result.suggestion / 10)


def test_a_scheduler_at_zero_does_not_hide_the_ratios() -> None:
    model = network()
    optimizer = two_groups(model, torch.optim.SGD)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 10)  # warm-up from 0
    seen = []

    def watched(model: nn.Module, batch: Any) -> Tensor:
        seen.append([group["lr"] for group in optimizer.param_groups])
        return loss(model, batch)

    find_lr(model, optimizer, loader(), watched, iterations=10, orders=1)
    assert [one / other for one, other in seen] == pytest.approx([10.0] * len(seen))
    assert optimizer.param_groups[0]["lr"] == 0.0


def test_a_nan_ends_a_sweep() -> None:
    # torch-lr-finder goes on to the end and suggests the place of the NaN
    model = network()
    calls = 0

    def breaking(model: nn.Module, batch: Any) -> Tensor:
        nonlocal calls
        calls += 1
        return loss(model, batch) * (torch.nan if calls == 25 else 1.0)

    result = find_lr(model, SGD(model.parameters()), loader(), breaking, iterations=33, orders=1, high=1e-2)
    assert calls == 25
    assert len(result.curve.x) == 24
    assert result.suggestion is None or result.curve.x[0] <= result.suggestion <= result.curve.x[-1]


def test_divergence_ends_a_sweep() -> None:
    model = network()
    result = find_lr(model, torch.optim.SGD(model.parameters()), loader(), loss, low=1e-4, high=1e9, orders=1)
    assert len(result.curve.x) < 99
    assert result.suggestion is not None
    assert result.suggestion < 100


@pytest.mark.parametrize("accumulate", [1, 4])
def test_accumulation_is_one_big_batch(accumulate: int) -> None:
    torch.manual_seed(0)
    model = nn.Linear(6, 3).double()
    x, y = torch.randn(64, 6, dtype=torch.float64), torch.randint(3, (64,))
    parts = [(x[i::accumulate], y[i::accumulate]) for i in range(accumulate)]
    result = find_lr(
        model,
        SGD(model.parameters()),
        lambda seed: parts,
        lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1]),
        accumulate=accumulate,
        orders=1,
    )
    whole = find_lr(
        model,
        SGD(model.parameters()),
        lambda seed: [(x, y)],
        lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1]),
        orders=1,
    )
    np.testing.assert_allclose(result.curve.y, whole.curve.y, rtol=1e-9)


def test_autocast_in_the_loss() -> None:
    model = network()

    def half(model: nn.Module, batch: Any) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return loss(model, batch)

    assert find_lr(model, SGD(model.parameters()), loader(), half, clip_norm=1.0).suggestion is not None


def test_two_networks_by_a_step_function() -> None:
    one, other = network(), network()
    optimizers = [SGD(model.parameters(), lr=0.1) for model in (one, other)]

    def train_step(batch: Any) -> float:
        total = 0.0
        for model, optimizer in zip((one, other), optimizers, strict=True):
            optimizer.zero_grad()
            value = loss(model, batch)
            value.backward()
            optimizer.step()
            total += value.item()
        return total

    before = [everything(m, o) for m, o in zip((one, other), optimizers, strict=True)]
    find_lr([one, other], optimizers[0], loader(), train_step=train_step, also=[optimizers[1]])
    assert same([everything(m, o) for m, o in zip((one, other), optimizers, strict=True)], before)


def test_trained_weights_are_refused_as_flat() -> None:
    # a curve that cannot fall gives no rate, instead of 1e-3 where 1e-5 would be right
    model = nn.Linear(2, 1)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    result = find_lr(
        model,
        SGD(model.parameters()),
        [torch.randn(8, 2) for _ in range(8)],
        lambda model, x: 1 + model(x).square().mean(),
    )
    assert result.suggestion is None
    assert result.finding is not None


def test_the_plot_has_the_curve_and_a_line_per_rule() -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    model = network()
    result = find_lr(model, SGD(model.parameters(), momentum=0.9), loader(), loss)
    axes = result.plot()
    assert axes.get_xscale() == "log"
    labels = axes.get_legend_handles_labels()[1]
    assert any(label.startswith("steep") for label in labels) is (result.suggestion is not None)
    plt.close(axes.figure)


# Bad input


def _iterator() -> Iterator[Any]:
    yield from loader()


def _call(**changes: Any) -> Any:
    model = changes.pop("model", None) or network()
    optimizer = changes.pop("optimizer", None) or SGD(model.parameters())
    batches = changes.pop("batches", None)
    given = {"loss": loss, **changes}
    return find_lr(model, optimizer, loader() if batches is None else batches, **given)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no model": ({"model": [3], "optimizer": SGD(network().parameters())}, "it must be a torch.nn.Module"),
    "no optimizer": ({"optimizer": 3}, "optimizer is a int; it must be a torch.optim.Optimizer or a Step"),
    "neither": ({"loss": None}, "give either loss.* or train_step"),
    "both": ({"train_step": lambda batch: 0.0}, "give either loss.* or train_step"),
    "iterator": ({"batches": _iterator()}, "batches is a generator, which the finder would use up"),
    "number": ({"batches": 3}, "batches is a int; pass a loader"),
    "empty": ({"batches": []}, "the loader has 0 batches, fewer than one accumulation of 1"),
    "empty unsized": ({"batches": lambda seed: []}, "the loader gives no batch"),
    "short": ({"batches": [1, 2], "accumulate": 3}, "the loader has 2 batches, fewer than one accumulation of 3"),
    "accumulate 0": ({"accumulate": 0}, "accumulate=0; it must be a whole number of at least 1"),
    "clip 0": ({"clip_norm": 0.0}, "clip_norm=0.0; it must be a finite number above 0"),
    "low 0": ({"low": 0.0}, "low=0.0; it must be a finite number above 0"),
    "low above high": ({"low": 1.0, "high": 0.1}, "low=1; it must be below high=0.1"),
    "few": ({"iterations": 20}, "iterations=20 gives 6 updates for each of orders=3; it must be at least 10"),
    "iterations 0": ({"iterations": 0}, "iterations=0; it must be a whole number from 10 to"),
    "orders 0": ({"orders": 0}, "orders=0; it must be a whole number of at least 1"),
    "stop 1": ({"stop": 1.0}, "stop=1.0; it must be a finite number above 1"),
    "beta 1": ({"beta": 1.0}, r"beta=1.0; it must be in \[0, 1\)"),
    "beta a text": ({"beta": "x"}, r"beta='x'; it must be in \[0, 1\)"),
    "seed": ({"seed": "a"}, "seed='a'; it must be a whole number"),
    "large seed": ({"seed": 2**70}, "it must be a whole number below 2"),
    "model a number": ({"model": 3, "optimizer": SGD(network().parameters())}, "it must be a torch.nn.Module"),
    "also alone": ({"also": nn.Linear(1, 1)}, "also is a Linear; it must be a list"),
    "loss no function": ({"loss": 3}, "loss is a int; it must be a function"),
    "step no function": ({"loss": None, "train_step": 3}, "train_step is a int; it must be a function"),
    "function without batches": ({"batches": lambda seed: None}, r"batches\(seed\) returned a NoneType"),
    "rule": ({"rule": "steepest"}, "unknown rule 'steepest': did you mean 'steep'"),
    "lr 0": ({"optimizer": SGD(network().parameters(), lr=0.0)}, "every group of the optimizer has lr 0"),
    "also": ({"also": [object()]}, "also has a object, which has no state_dict"),
    "vector": ({"loss": lambda model, batch: model(*batch[:2])}, r"loss has shape \(32, 3\); it must be a scalar"),
    "float": ({"loss": lambda model, batch: 1.0}, "loss is a float; it must be a scalar tensor"),
    "step function": ({"loss": None, "train_step": lambda batch: None}, "train_step returned None"),
    "doubled": (
        {"loss": None, "train_step": lambda batch: 0.0, "accumulate": 2},
        "accumulate has no effect, because train_step does this itself",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str) -> None:
    changes, message = BAD[case]
    with pytest.raises(UsageError, match=message) as caught:
        _call(**changes)
    assert "\n" not in str(caught.value)
