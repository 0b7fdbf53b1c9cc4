"""What single optimizers claim, faults that lived in public implementations, and that every entry is complete."""

import importlib
import inspect
import math
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import stepwell
from stepwell import cli, optimizers
from stepwell.engine import halves
from stepwell.errors import UsageError
from stepwell.optimizers import TABLE, create, find
from stepwell.optimizers.facts import record, state_bytes
from stepwell.optimizers.guide import METHODS
from stepwell.tasks import find as find_task
from tests.contract.table import ROWS, RULES, rows
from tests.contract.test_contract import FLOAT64, assert_bits_equal, leaves, problem, run


def trained(name: str, grads: list[list[Any]], params: list[torch.Tensor], **options: Any) -> list[torch.Tensor]:
    ours = leaves(params)
    run(find(name)(ours, backend="eager", **options), ours, grads)
    return ours


# Claimed invariances

SCALE_FREE: list[tuple[str, dict[str, Any]]] = [
    ("Lion", {"weight_decay": 0.1}),
    ("Signum", {"weight_decay": 0.1}),
    ("Signum", {"momentum": 0.0}),
    ("Rprop", {}),
    ("Rprop", {"variant": "riedmiller"}),
    ("AdamAtan2", {"weight_decay": 0.1}),
    ("Adam", {"eps": 0.0}),
    ("Adamax", {"eps": 0.0}),
    ("NAdam", {"eps": 0.0}),
    ("AdaBelief", {"eps": 0.0}),
    ("Adan", {"eps": 0.0, "weight_decay": 0.1}),
    ("ADOPT", {"eps": 0.0, "weight_decay": 0.1}),
    ("AdEMAMix", {"eps": 0.0}),
    ("LaProp", {"eps": 0.0}),
    ("ScheduleFreeAdamW", {"eps": 0.0, "weight_decay": 0.1}),
]


@pytest.mark.parametrize(("name", "options"), SCALE_FREE)
def test_the_scale_of_gradients_does_not_matter(name: str, options: dict[str, Any]) -> None:
    params, grads = problem()
    scaled = [[None if g is None else g * 2.0**10 for g in row] for row in grads]  # a power of two rounds nothing
    one = trained(name, grads, params, lr=0.01, **options)
    assert_bits_equal(one, trained(name, scaled, params, lr=0.01, **options))
    assert not torch.equal(one[0], params[0])


@pytest.mark.parametrize("name", ["SGD", "ASGD", "RAdam", "Adadelta"])
def test_the_scale_of_gradients_does_matter_where_no_one_claims_otherwise(name: str) -> None:
    params, grads = problem()
    scaled = [[None if g is None else g * 2.0**10 for g in row] for row in grads]
    assert not torch.equal(trained(name, grads, params)[0], trained(name, scaled, params)[0])


@pytest.mark.parametrize(
    ("name", "bound", "options"),
    [
        ("Lion", 1.0, {}),
        ("Signum", 1.0, {}),
        ("Sophia", 1.0, {"weight_decay": 0.0}),
        ("Adamax", 1.01, {}),  # (1 - beta1) * sum((beta1 / beta2)**k) = 1.009 at most
        ("AdamAtan2", math.pi / 2, {}),
    ],
)
def test_no_step_is_larger_than_claimed(name: str, bound: float, options: dict[str, Any]) -> None:
    p = torch.zeros(50, dtype=torch.float64, requires_grad=True)
    optimizer = find(name)([p], lr=0.1, **options)
    generator = torch.Generator().manual_seed(0)
    for step in range(40):
        p.grad = torch.randn(50, generator=generator, dtype=torch.float64) * (1e6 if step == 30 else 1.0)
        before = p.detach().clone()
        optimizer.step()
        assert (p - before).abs().max() <= 0.1 * bound * (1 + 1e-12)


def test_ademamix_without_its_slow_part_is_adamw() -> None:
    params, grads = problem(torch.float64)
    shared = {"lr": 0.01, "weight_decay": 0.1, "eps": 1e-4}
    mixed = trained("AdEMAMix", grads, params, betas=(0.8, 0.95, 0.99), alpha=0.0, **shared)
    for a, b in zip(mixed, trained("AdamW", grads, params, betas=(0.8, 0.95), **shared), strict=True):
        torch.testing.assert_close(a, b, **FLOAT64)


def test_ademamix_warm_up_starts_at_the_fast_average_and_ends_at_the_slow_one() -> None:
    def slow_after(count: int) -> float:
        p = torch.zeros((), dtype=torch.float64, requires_grad=True)
        optimizer = stepwell.AdEMAMix([p], betas=(0.0, 0.5, 0.75), beta3_warmup=4)
        for step in range(count):
            p.grad = torch.tensor(float(step + 1 == count), dtype=torch.float64)
            optimizer.step()
        return float(optimizer.state[p]["exp_avg_slow"])

    # what the last gradient weighs: 1 - beta3 of that step; the half-life goes from 0 (beta1 = 0) to that of 0.75
    for step in range(1, 7):
        assert slow_after(step) == pytest.approx(1 - 0.75 ** (4 / min(step, 4)))


def test_radam_takes_momentum_steps_before_it_trusts_its_second_moment() -> None:
    p = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    gradient = torch.tensor([1.0, 10.0, 0.1], dtype=torch.float64)
    optimizer = stepwell.RAdam([p], lr=0.1)
    steps = []
    for _ in range(7):
        before = p.detach().clone()
        p.grad = gradient.clone()
        optimizer.step()
        steps.append(before - p.detach())
    for step in steps[:5]:  # the mean of equal gradients, corrected, is the gradient
        torch.testing.assert_close(step, 0.1 * gradient)
    for step in steps[5:]:  # adaptive: the same for every element
        torch.testing.assert_close(step, step[0].expand(3), rtol=1e-5, atol=0.0)  # but for eps
        assert step[0] < 0.1


# Faults that lived in public implementations


@pytest.mark.parametrize(("name", "options"), rows())
def test_every_slot_moves_and_holds_copies_of_its_own(name: str, options: dict[str, Any]) -> None:
    """An average updated out of place never moves; p.grad kept without a copy changes with zero_grad."""
    params, grads = problem(torch.float32, name)
    ours = leaves(params)
    optimizer = find(name)(ours, backend="eager", maximize=True, **options)
    run(optimizer, ours, grads[:2])
    kept = {key: value.clone() for key, value in optimizer.state[ours[0]].items()}
    run(optimizer, ours, grads[2:9])
    state = optimizer.state[ours[0]]
    steady = {"d", "d_max", "p0"}  # where they started: steps this wild give d no reason to grow
    assert all(not torch.equal(kept[key], state[key]) for key in kept if key not in steady and kept[key].numel())
    assert torch.equal(ours[0].grad, grads[8][0])  # maximising does not write it
    kept = {key: value.clone() for key, value in state.items()}
    ours[0].grad.zero_()
    ours[0].data.add_(1.0)
    assert all(torch.equal(kept[key], state[key]) for key in kept)


@pytest.mark.parametrize("name", [name for name in RULES if name != "Rprop"])  # its lr is where step sizes start
def test_nothing_moves_at_lr_zero_decay_included(name: str) -> None:
    params, grads = problem()
    for options in ROWS[name]:
        zero = {key: 0.0 for key in (*options, "lr") if key.endswith("lr")}  # Muon's adamw_lr, too
        assert_bits_equal(params, trained(name, grads[:4], params, **options | zero))


@pytest.mark.parametrize("decoupled", [True, False])
def test_the_first_gradient_of_adopt_only_sets_the_scale(decoupled: bool) -> None:
    p = torch.tensor([3.0, -2.0], requires_grad=True)
    optimizer = stepwell.ADOPT([p], lr=0.1, weight_decay=0.5, decoupled_weight_decay=decoupled)
    p.grad = torch.tensor([4.0, 1.0])
    optimizer.step()
    assert p.tolist() == [3.0, -2.0]
    gradient = p.grad if decoupled else p.grad + 0.5 * p.detach()
    torch.testing.assert_close(optimizer.state[p]["exp_avg_sq"], gradient**2)
    assert optimizer.state[p]["exp_avg"].tolist() == [0.0, 0.0]


def test_rprop_starts_at_lr_and_ignores_a_later_one() -> None:
    p = torch.zeros(1, requires_grad=True)
    optimizer = stepwell.Rprop([p], lr=0.25)
    places = []
    for lr in (0.25, 7.0, 7.0):
        optimizer.param_groups[0]["lr"] = lr
        p.grad = torch.ones(1)
        optimizer.step()
        places.append(p.item())
    assert places == pytest.approx([-0.25, -0.25 - 0.3, -0.25 - 0.3 - 0.36])


def test_asgd_averages_after_t0() -> None:
    params, grads = problem(torch.float64)
    options = {"lr": 0.05, "lambd": 0.1, "alpha": 0.6, "t0": 5.0, "weight_decay": 0.2}
    ours = leaves(params)
    optimizer = stepwell.ASGD(ours, **options)
    run(optimizer, ours, grads)
    referee = importlib.import_module("tests.papers.asgd")
    arrays = [[None if g is None else g.numpy() for g in row] for row in grads]
    want = referee.trajectory([p.numpy() for p in params], arrays, point="ax", **options)
    for p, average in zip(ours, want, strict=True):
        np.testing.assert_allclose(optimizer.state[p]["ax"].numpy(), average, **FLOAT64)
        assert not np.allclose(average, p.detach().numpy())


@pytest.mark.parametrize(("name", "format_"), [("AdamW8bit", "int8"), ("AdamW4bit", "int4")])
def test_names_of_low_bits_are_formats_of_adamw(name: str, format_: str) -> None:
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(70, 100, generator=generator), torch.randn(9, generator=generator)]
    both = [leaves(start), leaves(start)]
    run_both = [find(name)(both[0], lr=0.01), stepwell.AdamW(both[1], lr=0.01, state=format_)]
    for _ in range(3):
        row = [torch.randn(p.shape, generator=generator) for p in start]
        for optimizer, ours in zip(run_both, both, strict=True):
            run(optimizer, ours, [row])
    assert_bits_equal(*both)
    assert run_both[0].state[both[0][0]]["exp_avg"].dtype == torch.uint8
    assert run_both[0].state[both[0][1]]["exp_avg"].dtype == torch.float32


# Schedule-Free: two points and the way between them

FREE = [
    ("ScheduleFreeSGD", {"lr": 0.05, "momentum": 0.7, "weight_decay": 0.2, "warmup_steps": 6, "r": 0.5}),
    ("ScheduleFreeAdamW", {"lr": 0.05, "betas": (0.7, 0.95), "weight_decay": 0.2, "warmup_steps": 6}),
]


@pytest.mark.parametrize(("name", "options"), FREE)
def test_eval_gives_the_mean_and_train_comes_back(name: str, options: dict[str, Any]) -> None:
    params, grads = problem(torch.float64)
    ours = leaves(params)
    optimizer = find(name)(ours, **options)
    run(optimizer, ours, grads)
    here = leaves(ours)
    referee = importlib.import_module(f"tests.papers.{name.lower()}")
    arrays = [[None if g is None else g.numpy() for g in row] for row in grads]
    want = referee.trajectory([p.numpy() for p in params], arrays, point="x", **options)
    with optimizer.evaluating():
        optimizer.eval()  # twice is once
        for p, mean, y in zip(ours, want, here, strict=True):
            np.testing.assert_allclose(p.detach().numpy(), mean, **FLOAT64)
            assert not np.allclose(mean, y.detach().numpy())
    for p, y in zip(ours, here, strict=True):
        torch.testing.assert_close(p, y, **FLOAT64)


def test_the_mean_of_schedule_free_sgd_is_that_of_its_iterates() -> None:
    params, grads = problem(torch.float64)
    ours = leaves(params[:1])
    optimizer = stepwell.ScheduleFreeSGD(ours, lr=0.1)
    iterates = []
    for row in grads:
        run(optimizer, ours, [row[:1]])
        iterates.append(optimizer.state[ours[0]]["z"].clone())
    optimizer.eval()
    torch.testing.assert_close(ours[0].detach(), torch.stack(iterates).mean(0))


@pytest.mark.parametrize("weights", ["native", "split"])
def test_modes_of_16_bit_weights(weights: str) -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.rand(5000, generator=generator) + 0.5
    low, full = start.bfloat16().requires_grad_(), start.bfloat16().float().requires_grad_()
    both = [stepwell.ScheduleFreeAdamW([low], lr=1e-3, weights=weights), stepwell.ScheduleFreeAdamW([full], lr=1e-3)]
    for _ in range(20):
        gradient = torch.randn(5000, generator=generator).bfloat16()
        for optimizer, p in zip(both, (low, full), strict=True):
            p.grad = gradient.to(p.dtype)
            optimizer.step()
    for optimizer in both:
        optimizer.eval()
    # native: 20 roundings to bf16 and one more; split: rounded once
    assert (low.float() - full).abs().max() <= 2.0**-8 * 2 * (10 if weights == "native" else 1)
    for optimizer in both:
        optimizer.train()
    if weights == "split":
        joined = halves.join(low.detach(), both[0].state[low]["low_bits"])
        torch.testing.assert_close(joined, full.detach(), rtol=1e-6, atol=1e-6)


def test_modes_are_watched() -> None:
    p = torch.ones(3, requires_grad=True)
    optimizer = stepwell.ScheduleFreeSGD([p])
    optimizer.eval()
    optimizer.train()  # before the first step: all points are one
    p.grad = torch.ones(3)
    optimizer.step()
    with pytest.warns(UserWarning, match="saved in train mode"):
        optimizer.state_dict()
    optimizer.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        saved = optimizer.state_dict()
    with pytest.raises(UsageError, match=r"optimizer\.train\(\)"):
        optimizer.step()

    q = p.detach().clone().requires_grad_()
    other = stepwell.ScheduleFreeSGD([q])
    other.load_state_dict(saved)
    for one in (optimizer, other):  # the checkpoint knows which point the weights are
        one.train()
    p.grad = q.grad = torch.ones(3)
    optimizer.step()
    other.step()
    assert torch.equal(p, q)


# Sophia's estimators

HESSIAN = torch.tensor([[2.0, 1.0, 0.0], [1.0, 3.0, -1.0], [0.0, -1.0, -0.5]], dtype=torch.float64)


def test_hutchinson_is_right_in_the_mean_with_signs_of_both_kinds() -> None:
    p = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = stepwell.Sophia([p], betas=(0.9, 0.0))
    generator = torch.Generator().manual_seed(0)
    seen = []
    for _ in range(400):
        optimizer.hutchinson(p @ HESSIAN @ p / 2 + p.sum(), generator)
        seen.append(optimizer.state[p]["hessian"].clone())
    found = torch.stack(seen)
    off = HESSIAN - HESSIAN.diag().diag()
    spread = (off**2).sum(1).sqrt() / math.sqrt(len(seen))
    assert ((found.mean(0) - HESSIAN.diag()).abs() <= 5 * spread).all()
    assert not torch.allclose(found.mean(0), HESSIAN.sum(1), atol=0.4)  # what one sign for all would give
    assert p.grad is None


def test_gauss_newton_bartlett_is_batch_times_square() -> None:
    p = torch.tensor([1.0, -2.0], requires_grad=True)
    unused = torch.ones(2, requires_grad=True)
    optimizer = stepwell.Sophia([p, unused], betas=(0.9, 0.75))
    optimizer.gauss_newton_bartlett((p * torch.tensor([3.0, 0.5])).sum(), batch=8)
    assert optimizer.state[p]["hessian"].tolist() == [0.25 * 8 * 9, 0.25 * 8 * 0.25]
    assert unused not in optimizer.state
    assert p.grad is None


@pytest.mark.parametrize("state", ["bf16", "int8", "int4"])
def test_estimates_enter_every_format(state: str) -> None:
    p = torch.zeros(64, 80, requires_grad=True)
    optimizer = stepwell.Sophia([p], lr=0.1, rho=1.0, betas=(0.0, 0.5), weight_decay=0.0, state=state)
    estimate = torch.rand(64, 80, generator=torch.Generator().manual_seed(0)) + 1.5
    for _ in range(12):
        p.grad = torch.ones_like(p)
        optimizer.add_hessian({p: estimate})
        before = p.detach().clone()
        optimizer.step()
    # int4 has one code per octave: h is off by a third at most, 1 / h by a half, before the average takes its share
    torch.testing.assert_close(before - p, 0.1 / estimate, rtol=0.6 if state == "int4" else 0.1, atol=0.0)


# They train


def lowest(name: str, task: str, lr: float, options: dict[str, Any], steps: int = 300) -> float:
    """The height that is reached under a linear decay, as part of the height at the start."""
    point = find_task(task).build(0)
    surface = find_task(task).surface
    eager = {} if find(name).facts.kind == "closure" else {"backend": "eager"}
    optimizer = create(name, [point.position], lr=lr, **eager, **options)

    def height() -> Any:
        return surface.height(point.position[0], point.position[1])

    def closure() -> Any:
        optimizer.zero_grad()
        loss = height()
        loss.backward()
        return loss

    start = height().item()
    for step in range(steps):
        if name != "Rprop" and not optimizer.param_groups[0].get("train_mode"):
            optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
        if name == "Sophia":
            optimizer.hutchinson(height(), torch.Generator().manual_seed(step))
        optimizer.step(closure)
    if "train_mode" in optimizer.param_groups[0]:
        optimizer.eval()
    return height().item() / start


# What is left of the height at the floor of the valley, before the way along it: 0.14 and 0.33.
@pytest.mark.parametrize(("task", "floor"), [("ravine", 0.2), ("rosenbrock", 0.32)])
@pytest.mark.parametrize("name", list(TABLE))
def test_some_rate_of_the_toy_range_goes_down(name: str, task: str, floor: float) -> None:
    low, high = find(name).facts.lr_range("toy")
    rates = [low * (high / low) ** (k / 4) for k in range(1, 5)]
    options = dict(find(name).facts.compare_options)
    if find(name).facts.matrices_only:
        with pytest.raises(UsageError, match="none of the 1 tensors given is a trained hidden matrix"):
            lowest(name, task, rates[0], options)
        return
    assert min(x for x in (lowest(name, task, lr, options) for lr in rates) if math.isfinite(x)) < floor


# Names, options, documentation, facts


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("schedule-free_adamw", "ScheduleFreeAdamW"),
        ("SCHEDULEFREE-SGD", "ScheduleFreeSGD"),
        ("adam_atan2", "AdamAtan2"),
        ("Adopt", "ADOPT"),
        ("ademamix", "AdEMAMix"),
        ("adamw-8bit", "AdamW8bit"),
        ("r_prop", "Rprop"),
    ],
)
def test_odd_spellings(given: str, name: str) -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = create(given, model, lr=0.01)
    assert type(optimizer).__name__ == name
    assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("Rprop", {"etas": (1.5, 1.2)}, "the first must be below 1 and the second above 1"),
        ("Rprop", {"variant": "plus"}, "variant='plus'; it must be one of 'torch', 'riedmiller'"),
        ("RAdam", {"rectify": True}, "rectify=True; it must be one of 'torch', 'paper'"),
        ("ADOPT", {"clip_power": -1.0}, "clip_power=-1.0 is out of range; it must be at least 0 and finite"),
        ("AdEMAMix", {"alpha_warmup": 0}, "alpha_warmup=0 is out of range"),
        ("AdamAtan2", {"b": 0.0}, "b=0.0 is out of range; it must be above 0 and finite"),
        ("AdamAtan2", {"eps": 1e-8}, "unknown option eps"),
        ("ScheduleFreeSGD", {"momentum": 0.0}, r"momentum=0.0 is out of range; it must be in \(0, 1\)"),
        ("ScheduleFreeAdamW", {"train_mode": False}, "unknown option train_mode"),
        ("Adan", {"betas": (0.9, 1.0, 0.9)}, r"must each be in \[0, 1\)"),
        ("Sophia", {"rho": 0.0}, "rho=0.0 is out of range"),
        ("NAdam", {"momentum_decay": None}, "momentum_decay=None is not a number"),
    ],
)
def test_what_is_refused(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        find(name)([torch.ones(2, requires_grad=True)], **options)


def _arguments(cls: type) -> list[str]:
    return [name for name in inspect.signature(cls.__init__).parameters if name != "self"]


@pytest.mark.parametrize("name", list(TABLE))
def test_documentation_is_complete(name: str) -> None:
    cls = find(name)
    text = inspect.getdoc(cls)
    arguments = text[text.index("Args:") : text.index("Reference:")]
    for argument in _arguments(cls):
        assert f"{argument}:" in arguments or f"{argument}," in arguments or f", {argument}" in arguments, argument
    reference = text[text.index("Reference:") :]
    found = re.search(r"arXiv\s+\d{4}\.\d{4,5}|\b(19|20)\d\d\b|\blecture\b", reference)
    assert found, f"the reference of {name} has neither an arXiv number nor a year: {reference.splitlines()[0]}"
    formula = importlib.import_module(cls.__module__).__doc__
    assert "<-" in formula or name.startswith("AdamW")
    model = torch.nn.Linear(3, 2)
    (first, *_) = [line.removeprefix(">>> ") for line in text.splitlines() if line.startswith(">>> optimizer")]
    scope: dict[str, Any] = {**{other: find(other) for other in TABLE}, "model": model}
    exec(first, scope)
    assert type(scope["optimizer"]) is cls


@pytest.mark.parametrize("name", RULES)
def test_every_option_is_in_a_row_of_the_contract_off_its_default(name: str) -> None:
    parameters = inspect.signature(find(name).__init__).parameters
    elsewhere = {"self", "params", "options", "state"}
    # what is refused, and what the referee does not have; in tests/optimizers/test_matrices.py and test_mars.py
    inner = {"optimize_1d", "adamw_lr", "adamw_betas", "adamw_weight_decay"}
    elsewhere |= {"Muon": {"force"}, "Shampoo": {"max_precond_dim"}, "MARS": inner}.get(name, set())
    for argument, parameter in parameters.items():
        if argument not in elsewhere:
            off = any(row.get(argument, parameter.default) != parameter.default for row in ROWS[name])
            assert off, f"no row of ROWS in tests/papers/{name.lower()}.py sets {argument} off its default"


@pytest.mark.parametrize("name", list(TABLE))
def test_facts_are_complete(name: str) -> None:
    cls = find(name)
    facts = cls.facts
    assert len(facts.source) > 20
    assert set(facts.lr) == {"default", "cnn", "transformer", "toy"}
    assert all(0 < low < high for low, high in facts.lr.values())
    assert facts.lr_against_adamw is None or facts.lr_against_adamw > 0
    assert facts.needs_modes == hasattr(cls, "eval")
    if name in RULES:
        assert facts.kind == ("matrix" if cls.view != "element" else "sums" if cls.sums else "elementwise")
    assert facts.needs_closure == bool(getattr(cls, "evaluates", cls.__dict__.get("needs_closure", False)))
    listed = record(cls, "cnn")
    assert (listed["lr_low"], listed["lr_high"]) == facts.lr["cnn"]
    assert listed["summary"].endswith(".")


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("state", ["fp32", "int8"])
def test_bytes_of_state_are_those_that_are_kept(name: str, state: str) -> None:
    for row in ROWS[name]:
        p = torch.ones(64, 256, requires_grad=True)
        optimizer = find(name)([p], backend="eager", **{**row, "state": state})
        p.grad = torch.ones_like(p)
        optimizer.step()
        numbers = 8 * sum(slot.is_number for slot in optimizer.slots)
        wanted = state_bytes(find(name), p.shape, state=state, **row) * p.numel()
        assert optimizer.state_bytes() - numbers == pytest.approx(wanted)


def test_the_table_names_every_class_and_each_is_exported() -> None:
    for name in TABLE:
        assert getattr(stepwell, name) is getattr(optimizers, name) is find(name)
    chosen: Callable[..., Any] = find
    with pytest.raises(UsageError, match="did you mean 'Adamax'"):
        chosen("adamaxx")


def test_the_page_of_the_catalogue_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    """`stepwell optimizers --markdown > docs/optimizers.md`"""
    assert cli.main(["optimizers", "--markdown"]) == 0
    said = capsys.readouterr().out
    assert said == (Path(__file__).parents[2] / "docs" / "optimizers.md").read_text()
    assert [line[4:] for line in said.splitlines() if line.startswith("### ")] == sorted(
        TABLE, key=lambda name: (list(METHODS).index(find(name).facts.method), list(TABLE).index(name))
    )


@pytest.mark.parametrize("name", ["ScheduleFreeSGD", "ScheduleFreeAdamW"])
def test_the_mode_of_a_schedule_free_checkpoint_is_loaded_into_other_groups(name: str) -> None:
    def built(parts: int) -> tuple[torch.nn.Module, Any]:
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        named = list(model.named_parameters())
        groups = [{"params": named}] if parts == 1 else [{"params": [one]} for one in named]
        return model, optimizers.find(name)(groups, lr=0.1, backend="eager")

    def train(model: torch.nn.Module, optimizer: Any) -> None:
        optimizer.zero_grad()
        model(torch.linspace(-1, 1, 12).view(4, 3)).square().mean().backward()
        optimizer.step()

    model, optimizer = built(1)
    for _ in range(3):
        train(model, optimizer)
    optimizer.eval()
    resumed, other = built(2)
    resumed.load_state_dict(model.state_dict())
    other.load_state_dict(optimizer.state_dict())
    for trained, its in ((model, optimizer), (resumed, other)):
        its.train()
        train(trained, its)
        its.eval()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), resumed.parameters(), strict=True))
