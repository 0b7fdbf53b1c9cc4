"""SAM and ASAM: their papers, and that nothing of the excursion is left behind, whatever happens on it."""

from __future__ import annotations

import copy
import importlib
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import stepwell
from stepwell.engine import halves
from stepwell.errors import UsageError
from stepwell.optimizers import ASAM, LBFGS, SAM, SGD, AdamW, create
from stepwell.optimizers.facts import record
from stepwell.schedules import constant, linear
from stepwell.step import Step
from tests.step.small import data, flat, loss, model, same
from tests.wrappers.landscape import NAMES, STEPS, Landscape, closure_of, named

# float64 against float64: the same arithmetic in another order of operations, 20 steps.
FLOAT64 = {"rtol": 1e-11, "atol": 1e-13}

INSIDE = {"lr": 0.03, "momentum": 0.8, "weight_decay": 0.2}
BOTH: dict[str, Any] = {
    "sam": lambda inside, **options: SAM(inside, **{"rho": 0.3, **options}),
    "asam": lambda inside, **options: ASAM(inside, **{"rho": 0.7, "eta": 0.2, **options}),
}


def aside_of(optimizer: Any, landscape: Landscape, params: list[Tensor], step: int) -> list[Tensor]:
    """The second point of one step, which itself is undone."""
    places = []
    inner = closure_of(optimizer, landscape, params, step)

    def closure() -> Any:
        places.append([p.detach().clone() for p in params])
        if len(places) == 2:
            raise KeyboardInterrupt
        return inner()

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure)
    return places[1]


# The papers


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("inside", [SGD, torch.optim.SGD])
@pytest.mark.parametrize("method", BOTH)
def test_equals_its_paper_in_float64(method: str, inside: Any, maximize: bool) -> None:
    landscape = Landscape()
    params = landscape.leaves()
    optimizer = BOTH[method](inside(named(params), maximize=maximize, **INSIDE))
    for step in range(STEPS):
        optimizer.step(closure_of(optimizer, landscape, params, step))
    referee = importlib.import_module(f"tests.papers.{method}")
    own = {"rho": 0.3} if method == "sam" else {"rho": 0.7, "eta": 0.2, "weights": ["weight" in n for n in NAMES]}
    want = referee.trajectory(landscape.start, landscape.gradient, STEPS, maximize=maximize, **own, **INSIDE)
    for got, expected, start in zip(params, want, landscape.start, strict=True):
        np.testing.assert_allclose(got.detach().numpy(), expected, **FLOAT64)
        assert not np.allclose(expected, start)


def test_without_names_weights_are_matrices_and_filters() -> None:
    landscape = Landscape()
    both = [landscape.leaves(), landscape.leaves()]
    names = ["w0.weight", "w1.weight", "c", "d", "w4.weight"]
    optimizers = [ASAM(SGD(both[0], **INSIDE)), ASAM(SGD(list(zip(names, both[1], strict=True)), **INSIDE))]
    for optimizer, params in zip(optimizers, both, strict=True):
        for step in range(6):
            optimizer.step(closure_of(optimizer, landscape, params, step))
    assert same([p.detach() for p in both[0]], [p.detach() for p in both[1]])


def test_asam_does_not_mind_how_two_layers_share_a_scale() -> None:
    """The network w2 * relu(w1 * x) is the same function for (w1 * 8, w2 / 8); so must be what ASAM sees aside."""
    x = torch.linspace(0.1, 1, 7, dtype=torch.float64)

    def seen(make: Callable[[Any], Any], scale: float) -> float:
        w1, w2 = torch.tensor([0.7 * scale]).double(), torch.tensor([1.3 / scale]).double()
        params = [("a.weight", w1.requires_grad_()), ("b.weight", w2.requires_grad_())]
        optimizer = make(SGD(params, lr=0.0))
        values = []

        def closure() -> Tensor:
            optimizer.zero_grad()
            value = (w2 * torch.relu(w1 * x) - 2).pow(2).sum()
            value.backward()
            values.append(value.item())
            return value

        optimizer.step(closure)
        assert values[1] > values[0]  # it went uphill
        return values[1]

    assert seen(lambda o: ASAM(o, rho=0.1, eta=0.0), 1.0) == pytest.approx(
        seen(lambda o: ASAM(o, rho=0.1, eta=0.0), 8.0)
    )
    assert seen(lambda o: SAM(o, rho=0.1), 1.0) != pytest.approx(seen(lambda o: SAM(o, rho=0.1), 8.0), rel=0.1)


def test_the_point_aside_is_rho_away_in_the_norm_of_all_tensors() -> None:
    landscape = Landscape(late=False)
    params = landscape.leaves()
    optimizer = SAM(SGD([{"params": params[:2]}, {"params": params[2:]}], lr=0.1), rho=0.25)
    aside = aside_of(optimizer, landscape, params, 0)
    distance = sum((q - p.detach()).pow(2).sum() for p, q in zip(params, aside, strict=True)).sqrt()
    assert distance.item() == pytest.approx(0.25)


def test_a_group_has_a_rho_of_its_own() -> None:
    landscape = Landscape(late=False)
    params = landscape.leaves()
    given = [{"params": params[:2]}, {"params": params[2:4], "sam_rho": 0.0}]
    optimizer = create("sam", given, base="adadelta", rho=0.5, lr=0.0)
    assert [group["rho"] for group in optimizer.param_groups] == [0.9, 0.9]  # Adadelta's is another
    optimizer.add_param_group({"params": params[4:], "sam_rho": 0.25})
    aside = aside_of(optimizer, landscape, params, 0)
    shares = [(q - p.detach()).norm() for p, q in zip(params, aside, strict=True)]
    gradients = [g if g is None else np.linalg.norm(g) for g in landscape.gradient(landscape.start, 0)]
    norm = np.sqrt(sum(g**2 for g in gradients if g is not None))
    for share, gradient, rho in zip(shares, gradients, (0.5, 0.5, 0.0, 0.0, 0.25), strict=True):
        assert share.item() == pytest.approx(rho * gradient / norm)


# What is left behind


@pytest.mark.parametrize("method", BOTH)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_weights_come_back_bit_for_bit(method: str, dtype: torch.dtype, error: type[BaseException] | None) -> None:
    landscape = Landscape(late=False)
    params = landscape.leaves(dtype)
    optimizer = BOTH[method](AdamW(named(params), lr=0.0 if error is None else 0.1))
    before = [p.detach().clone() for p in params]
    evaluations = []
    inner = closure_of(optimizer, landscape, params, 0)

    def closure() -> Any:
        evaluations.append([p.detach().clone() for p in params])
        value = inner()
        if error is not None and len(evaluations) == 2:
            raise error
        return value

    if error is None:
        optimizer.step(closure)
    else:
        with pytest.raises(error):
            optimizer.step(closure)
        assert not optimizer.state[params[0]]
    assert len(evaluations) == 2
    assert all(not torch.equal(a, b) for a, b in zip(before, evaluations[1], strict=True))
    assert same(before, [p.detach() for p in params])


def test_gradients_are_the_closures_and_the_first_are_not_added_to_the_second() -> None:
    landscape = Landscape(late=False)
    params = landscape.leaves()
    optimizer = SAM(SGD(params, lr=0.0), rho=0.3)
    first: list[Any] = []

    def closure() -> Any:  # drops no gradients itself
        value = landscape.loss(params, 0)
        value.backward()
        if not first:
            first.extend((p.grad, p.grad.clone()) for p in params if p.grad is not None)
        return value

    aside = aside_of(optimizer, landscape, params, 0)
    optimizer.zero_grad()
    optimizer.step(closure)
    assert all(torch.equal(gradient, kept) for gradient, kept in first)  # nobody wrote into it
    second = landscape.gradient([p.numpy() for p in aside], 0)
    for p, expected in zip(params, second, strict=True):
        np.testing.assert_allclose(p.grad.numpy(), expected, **FLOAT64)


def test_without_a_gradient_nothing_moves_aside() -> None:
    p = torch.ones(3, requires_grad=True)
    optimizer = SAM(SGD([p], lr=0.1))
    seen = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        seen.append(p.detach().clone())
        value = (p * 0).sum()
        value.backward()
        return value

    optimizer.step(closure)
    assert all(torch.equal(place, torch.ones(3)) for place in [*seen, p.detach()])


def test_rows_of_an_embedding() -> None:
    torch.manual_seed(0)
    table = nn.Embedding(9, 4, sparse=True)
    dense = nn.Embedding(9, 4)
    dense.load_state_dict(table.state_dict())
    for network in (table, dense):
        optimizer = SAM(torch.optim.SGD(network.parameters(), lr=0.1), rho=0.5)

        def closure(network: Any = network, optimizer: Any = optimizer) -> Tensor:
            optimizer.zero_grad()
            value = network(torch.tensor([1, 4, 1])).pow(2).sum()
            value.backward()
            return value

        for _ in range(3):
            optimizer.step(closure)
    torch.testing.assert_close(table.weight, dense.weight)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", BOTH)
def test_split_weights_keep_their_low_bits_and_are_moved_from_their_whole_value(
    method: str, dtype: torch.dtype
) -> None:
    landscape = Landscape(late=False)
    params = landscape.leaves(dtype)
    optimizer = BOTH[method](SGD(named(params), lr=0.01, weights="split"))
    for step in range(3):
        optimizer.step(closure_of(optimizer, landscape, params, step))
    whole = [halves.join(p.detach(), optimizer.state[p]["low_bits"]) for p in params]
    kept = copy.deepcopy([(p.detach(), optimizer.state[p]["low_bits"]) for p in params])
    assert any(low.abs().max() > 1 for _, low in kept)

    wide = [w.clone().requires_grad_() for w in whole]
    reference = BOTH[method](SGD(named(wide), lr=0.01))
    gradients: list[Tensor] = []

    def narrow() -> Any:
        value = closure_of(optimizer, landscape, params, 3)()
        gradients.extend(p.grad.float() for p in params)
        return value

    places = []

    def watched() -> Any:
        places.append([p.detach().clone() for p in params])
        if len(places) == 2:
            raise KeyboardInterrupt
        return narrow()

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(watched)
    assert same(kept, [(p.detach(), optimizer.state[p]["low_bits"]) for p in params])

    def given() -> Any:
        if len(gradients) == 0:
            raise KeyboardInterrupt
        for p in wide:
            p.grad = gradients.pop(0)
        return 0.0

    seen: list[Any] = []

    def looked() -> Any:
        if seen:
            seen.append([p.detach().clone() for p in wide])
            raise KeyboardInterrupt
        seen.append(None)
        return given()

    with pytest.raises(KeyboardInterrupt):
        reference.step(looked)
    for place, expected in zip(places[1], seen[1], strict=True):
        assert torch.equal(place, expected.to(dtype))


@pytest.mark.parametrize("with_model", [True, False])
def test_running_statistics_are_those_of_the_first_evaluation(with_model: bool) -> None:
    def network() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))

    plain, sharp = network(), network()
    loss(plain, *data())
    optimizer = create("sam", sharp, lr=0.1, rho=0.5, **({} if with_model else {"model": None}))
    optimizer.step(lambda: _backward(optimizer, sharp))
    assert int(sharp[1].num_batches_tracked) == (1 if with_model else 2)
    assert same(plain[1].running_mean, sharp[1].running_mean) == with_model
    with pytest.raises(KeyboardInterrupt):
        optimizer.step(_interrupted(optimizer, sharp))
    assert int(sharp[1].num_batches_tracked) == (2 if with_model else 4)


def _backward(optimizer: Any, network: nn.Module) -> Tensor:
    optimizer.zero_grad()
    value = loss(network, *data())
    value.backward()
    return value


def _interrupted(optimizer: Any, network: nn.Module) -> Callable[[], Tensor]:
    calls: list[int] = []

    def closure() -> Tensor:
        calls.append(1)
        value = _backward(optimizer, network)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return value

    return closure


# Around it


def test_under_a_step_it_does_what_it_does_alone() -> None:
    alone, stepped = model(), model()
    optimizer = SAM(SGD(alone.named_parameters(), **INSIDE))
    schedules = {"lr": linear(9, to=0.5), "sam_rho": linear(9)}
    step = Step(SAM(SGD(stepped.named_parameters(), **INSIDE)), schedules)
    for number in range(5):
        for key in ("lr", "sam_rho"):
            optimizer.param_groups[0][key] = step.optimizer.param_groups[0][key]
        expected = optimizer.step(lambda: _backward(optimizer, alone))
        done = step.closure(lambda: loss(stepped, *data()))
        assert done.loss == pytest.approx(expected.item())
        assert step.number == number + 1
    assert torch.equal(flat(alone), flat(stepped))
    assert step.optimizer.param_groups[0]["sam_rho"] == pytest.approx(0.05 * schedules["sam_rho"](5))


@pytest.mark.parametrize("inside", [SGD, torch.optim.SGD])
def test_clipping_reaches_the_gradient_that_moves_the_weights(inside: Any) -> None:
    network = model()
    before = flat(network)
    done = Step(SAM(inside(network.parameters(), lr=1.0)), clip_norm=0.01).closure(lambda: loss(network, *data()))
    assert done.clipped
    assert (flat(network) - before).norm().item() == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("inside", [SGD, AdamW, torch.optim.AdamW])
@pytest.mark.parametrize("bad", [1, 2])
def test_a_gradient_that_is_not_finite_skips_wherever_it_comes(inside: Any, bad: int) -> None:
    network = model()
    step = Step(SAM(inside(network.named_parameters(), lr=0.1)), linear(9), ema=0.5)
    step.closure(lambda: loss(network, *data()))
    weights, state, average = flat(network), copy.deepcopy(step.optimizer.state_dict()), step.average
    kept = copy.deepcopy(average.averages)
    calls: list[int] = []

    def compute() -> Tensor:
        calls.append(1)
        return loss(network, *data()) * (torch.nan if len(calls) == bad else 1.0)

    done = step.closure(compute)
    assert done.skipped
    assert len(calls) == bad
    assert (step.number, step.skipped) == (1, 1)
    assert torch.equal(flat(network), weights)
    assert same(step.optimizer.state_dict(), state)
    assert same(average.averages, kept)
    assert step.closure(lambda: loss(network, *data())).updated


def test_schedulers_of_torch_and_hooks_find_what_they_look_for() -> None:
    network = model()
    inside = SGD(network.parameters(), lr=1.0)
    optimizer = SAM(inside)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(SAM(AdamW(model().parameters())), max_lr=1.0, total_steps=9)
    assert scheduler.get_last_lr()[0] < 1.0
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    calls: list[str] = []
    for name, one in (("inside", inside), ("outside", optimizer)):
        one.register_step_pre_hook(lambda *_, name=name: calls.append(f"{name} before"))
        one.register_step_post_hook(lambda *_, name=name: calls.append(f"{name} after"))
    optimizer.step(lambda: _backward(optimizer, network))
    scheduler.step()
    assert calls == ["outside before", "inside before", "inside after", "outside after"]
    assert inside.param_groups[0]["lr"] == pytest.approx(0.1)
    Step(optimizer).closure(lambda: loss(network, *data()))
    assert calls == 2 * ["outside before", "inside before", "inside after", "outside after"]


# State


@pytest.mark.parametrize("how", ["saved", "copied", "pickled"])
@pytest.mark.parametrize("inside", [AdamW, torch.optim.AdamW])
def test_a_run_goes_on_bit_for_bit(how: str, inside: Any) -> None:
    landscape = Landscape()
    params = landscape.leaves(torch.float32)
    optimizer = ASAM(inside(named(params), lr=0.05), rho=0.3, eta=0.1)
    for step in range(7):
        optimizer.step(closure_of(optimizer, landscape, params, step))
    optimizer.param_groups[0]["sam_rho"] = 0.4
    if how == "saved":
        others = [p.detach().clone().requires_grad_() for p in params]
        resumed: Any = ASAM(inside(named(others)))
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        file.seek(0)
        resumed.load_state_dict(torch.load(file, weights_only=True))
    elif how == "copied":
        resumed, others = copy.deepcopy((optimizer, params))
    else:
        resumed, others = pickle.loads(pickle.dumps((optimizer, params)))
    assert (resumed.rho, resumed.eta) == (0.3, 0.1)
    for step in range(7, STEPS):
        optimizer.step(closure_of(optimizer, landscape, params, step))
        resumed.step(closure_of(resumed, landscape, others, step))
    assert same([p.detach() for p in params], [p.detach() for p in others])
    assert same(optimizer.state_dict(), resumed.state_dict())


def test_another_optimizers_checkpoint_is_refused() -> None:
    network = model()
    sam, plain = SAM(AdamW(network.named_parameters())), AdamW(network.named_parameters())
    sam.step(lambda: _backward(sam, network))
    with pytest.raises(UsageError, match="ASAM: the checkpoint is of SAM, not of ASAM"):
        ASAM(plain).load_state_dict(sam.state_dict())
    before = copy.deepcopy(sam.state_dict())
    other = SAM(AdamW(nn.Linear(2, 2).named_parameters()), rho=0.7)
    with pytest.raises(UsageError, match="it was saved from a different model"):
        other.load_state_dict(before)
    assert (other.rho, other.param_groups[0]["sam_rho"]) == (0.7, 0.7)


# Names, options, facts


def test_it_is_created_by_name_with_the_options_of_both() -> None:
    network = model()
    optimizer = create("asam", network, base="adam-w", rho=0.3, eta=0.02, lr=0.01, betas=(0.8, 0.9), state="bf16")
    assert isinstance(optimizer, ASAM)
    assert isinstance(optimizer.base, AdamW)
    assert optimizer.model is network
    group = optimizer.param_groups[0]
    assert (group["sam_rho"], group["lr"], group["betas"], group["state"]) == (0.3, 0.01, (0.8, 0.9), "bf16")
    assert group["param_names"] == [name for name, _ in network.named_parameters()]
    assert repr(optimizer) == "ASAM(rho=0.3, eta=0.02) around AdamW"
    assert optimizer.explain().startswith("ASAM(rho=0.3, eta=0.02) around\nAdamW\n")
    assert type(create("sam", network.parameters(), lr=0.1).base) is SGD


P = torch.ones(2, requires_grad=True)
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "parameters": (lambda: SAM([P]), r"optimizer is a list; it wraps an optimizer: SAM\(SGD\(model.parameters\(\)"),  # type: ignore[arg-type]
    "rho": (lambda: SAM(SGD([P]), rho=-0.1), "SAM: rho=-0.1 is out of range; it must be at least 0"),
    "eta": (lambda: ASAM(SGD([P]), eta=-0.1), "ASAM: eta=-0.1 is out of range"),
    "rho of a group": (lambda: create("sam", [{"params": [P], "sam_rho": -1.0}]), "rho=-1.0 is out of range"),
    "rho of a later group": (
        lambda: SAM(SGD([P])).add_param_group({"params": [torch.ones(1)], "sam_rho": "a"}),
        "rho='a' is not a number",
    ),
    "model": (lambda: SAM(SGD([P]), model=[P]), "model is a list; it must be a torch.nn.Module"),  # type: ignore[arg-type]
    "L-BFGS": (lambda: SAM(LBFGS([P])), "LBFGS evaluates the loss at places of its own, and so does SAM"),
    "itself": (lambda: SAM(ASAM(SGD([P]))), "ASAM evaluates the loss at places of its own"),
    "base": (lambda: create("sam", [P], base="sgdd"), "unknown optimizer 'sgdd': did you mean 'SGD'"),
    "option": (lambda: create("sam", [P], rhoo=0.1), "SAM around SGD: unknown option rhoo=0.1: did you mean 'rho'"),
    "option inside": (
        lambda: create("sam", [P], momentun=0.1),
        "SAM around SGD: unknown option momentun=0.1: did you mean 'momentum'",
    ),
    "name": (lambda: create("sma", [P]), "unknown optimizer 'sma': did you mean 'SAM'"),
    "no closure": (lambda: SAM(SGD([P])).step(), "SAM: a step evaluates the loss itself, so it needs a closure"),
    "update": (lambda: SAM(SGD([P])).update(), "so it needs a closure"),
    "a loss": (
        lambda: Step(SAM(SGD([P])))(P.sum()),
        r"SAM evaluates the loss several times per update; call step.closure",
    ),
    "accumulation": (lambda: Step(SAM(SGD([P])), accumulate=2).closure(P.sum), "cannot be combined with accumulate"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str) -> None:
    call, message = REFUSED[case]
    with pytest.raises(UsageError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_what_it_says_about_itself() -> None:
    facts = record(SAM)
    assert (facts["kind"], facts["needs"], facts["state_bytes"], facts["slots"]) == ("wrapper", ["closure"], 4.0, [])
    assert stepwell.SAM is SAM
    network = model()
    optimizer = SAM(AdamW(network.parameters()))
    optimizer.step(lambda: _backward(optimizer, network))
    assert optimizer.state_bytes() == SAM.bytes_per_element(base="adamw") * flat(network).numel()
    assert optimizer.needs_closure
    assert Step(optimizer, {"lr": constant(), "sam_rho": constant()})
