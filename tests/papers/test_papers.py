"""The transcriptions are themselves tested: against torch.optim in float64 where torch has the optimizer, else
against first steps worked by hand and against what a change of units must not change."""

import numpy as np
import pytest
import torch

from . import (
    adabelief,
    adadelta,
    adagrad,
    adam,
    adamatan2,
    adamax,
    adamw,
    adan,
    ademamix,
    adopt,
    asgd,
    laprop,
    lion,
    mars,
    nadam,
    radam,
    rmsprop,
    rprop,
    schedulefreeadamw,
    schedulefreesgd,
    sgd,
    signum,
    sophia,
    sparseadam,
)
from .cautious import cautious

SHAPES = [(5, 3), (3, 5), (4,), (), (2, 3, 2, 2), (4, 4)]
LATE = 2  # index of the tensor whose gradient first appears at step 4
STEPS = 20


def problem(shapes=SHAPES, steps=STEPS, late=LATE, seed=0):
    """Parameters and gradients; magnitudes differ between tensors and between steps, so that a lost factor shows."""
    rng = np.random.default_rng(seed)
    params = [np.asarray(rng.normal(size=shape)) for shape in shapes]
    grads = [
        [np.asarray(rng.normal(size=shape) * 10.0 ** rng.uniform(-2, 1)) for shape in shapes] for _ in range(steps)
    ]
    for t in range(min(3, steps)):
        if late is not None:
            grads[t][late] = None
    if late is not None and steps > 10:
        grads[10][0] = None  # and a gap in the middle
    return params, grads


def by_torch(cls, params, grads, slot=None, **options):
    default = torch.get_default_dtype()
    torch.set_default_dtype(
        torch.float64
    )  # torch keeps some of its scalars (NAdam's mu_product, ASGD's eta) in the default dtype
    try:
        weights = [torch.nn.Parameter(torch.tensor(p)) for p in params]
        optimizer = cls(weights, **options)
        for row in grads:
            for weight, g in zip(weights, row, strict=True):
                weight.grad = None if g is None else torch.tensor(g)
            optimizer.step()
    finally:
        torch.set_default_dtype(default)
    if slot is not None:
        return [optimizer.state[w][slot].numpy() for w in weights]
    return [w.detach().numpy() for w in weights]


def assert_same(ours, theirs, rtol=1e-12, atol=1e-14):
    """atol: a parameter that passes close to zero has no relative precision left; 1e-14 is 45 units of the last place
    of 1."""
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert isinstance(a, np.ndarray)
        assert a.dtype == np.float64
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


ADAM = {"lr": 0.03, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}
AGAINST_TORCH = [
    (sgd, torch.optim.SGD, {}),
    (sgd, torch.optim.SGD, {"lr": 0.02, "weight_decay": 0.1}),
    (sgd, torch.optim.SGD, {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.8, "dampening": 0.3, "maximize": True}),
    (sgd, torch.optim.SGD, {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.8, "nesterov": True}),
    (adagrad, torch.optim.Adagrad, {}),
    (
        adagrad,
        torch.optim.Adagrad,
        {
            "lr": 0.1,
            "lr_decay": 0.2,
            "weight_decay": 0.1,
            "initial_accumulator_value": 0.3,
            "eps": 1e-2,
            "maximize": True,
        },
    ),
    (rmsprop, torch.optim.RMSprop, {}),
    (rmsprop, torch.optim.RMSprop, {"lr": 0.03, "alpha": 0.8, "eps": 1e-2, "weight_decay": 0.1, "maximize": True}),
    (rmsprop, torch.optim.RMSprop, {"lr": 0.03, "alpha": 0.8, "eps": 1e-2, "momentum": 0.7, "weight_decay": 0.1}),
    (
        rmsprop,
        torch.optim.RMSprop,
        {"lr": 0.03, "alpha": 0.8, "eps": 1e-2, "momentum": 0.7, "weight_decay": 0.1, "centered": True},
    ),
    (adam, torch.optim.Adam, {}),
    (adam, torch.optim.Adam, ADAM),
    (adam, torch.optim.Adam, ADAM | {"amsgrad": True, "maximize": True}),
    (adam, torch.optim.Adam, ADAM | {"decoupled_weight_decay": True}),
    (adamw, torch.optim.AdamW, {}),
    (adamw, torch.optim.AdamW, ADAM),
    (adamw, torch.optim.AdamW, ADAM | {"amsgrad": True, "maximize": True}),
    (adadelta, torch.optim.Adadelta, {}),
    (adadelta, torch.optim.Adadelta, {"lr": 0.3, "rho": 0.8, "eps": 1e-2, "weight_decay": 0.1, "maximize": True}),
    (adamax, torch.optim.Adamax, {}),
    (adamax, torch.optim.Adamax, ADAM | {"maximize": True}),
    (nadam, torch.optim.NAdam, {}),
    (nadam, torch.optim.NAdam, ADAM | {"momentum_decay": 0.05, "maximize": True}),
    (nadam, torch.optim.NAdam, ADAM | {"momentum_decay": 0.05, "decoupled_weight_decay": True}),
    (radam, torch.optim.RAdam, {}),
    (radam, torch.optim.RAdam, ADAM | {"maximize": True}),
    (radam, torch.optim.RAdam, ADAM | {"decoupled_weight_decay": True}),
    (asgd, torch.optim.ASGD, {}),
    (
        asgd,
        torch.optim.ASGD,
        {"lr": 0.05, "lambd": 0.3, "alpha": 0.6, "t0": 6.0, "weight_decay": 0.1, "maximize": True},
    ),
    (rprop, torch.optim.Rprop, {}),
    (rprop, torch.optim.Rprop, {"lr": 0.05, "etas": (0.4, 1.5), "step_sizes": (0.02, 0.2), "maximize": True}),
    (rprop, torch.optim.Rprop, {"lr": 0.05, "step_sizes": (0.06, 0.2)}),
]


@pytest.mark.parametrize(("paper", "cls", "options"), AGAINST_TORCH)
def test_agrees_with_torch(paper, cls, options):
    params, grads = problem()
    assert_same(paper.trajectory(params, grads, **options), by_torch(cls, params, grads, foreach=False, **options))


def test_asgd_average_agrees_with_torch():
    params, grads = problem()
    options = {"lr": 0.05, "lambd": 0.3, "alpha": 0.6, "t0": 6.0, "weight_decay": 0.1}
    assert_same(
        asgd.trajectory(params, grads, point="ax", **options),
        by_torch(torch.optim.ASGD, params, grads, foreach=False, slot="ax", **options),
    )


@pytest.mark.parametrize("maximize", [False, True])
def test_sparseadam_agrees_with_torch(maximize):
    rng = np.random.default_rng(0)
    params = [rng.normal(size=(6, 3)), rng.normal(size=(5,))]
    weights = [torch.nn.Parameter(torch.tensor(p)) for p in params]
    options = {"lr": 0.03, "betas": (0.8, 0.95), "eps": 1e-3, "maximize": maximize}
    optimizer = torch.optim.SparseAdam(weights, **options)
    grads, rows = [], []
    for t in range(STEPS):
        grads.append([None, None])
        rows.append([None, None])
        for i, weight in enumerate(weights):
            weight.grad = None
            if i == 1 and t < 3:
                continue
            held = rng.choice(len(params[i]), size=rng.integers(0, 4), replace=False)
            dense = np.zeros_like(params[i])
            dense[held] = rng.normal(size=dense[held].shape)
            if t == 7:
                dense[held] = 0.0  # held, though zero: touched all the same
            grads[t][i], rows[t][i] = dense, held
            weight.grad = torch.sparse_coo_tensor(
                torch.tensor(held)[None], torch.tensor(dense[held]), dense.shape, check_invariants=True
            )
        optimizer.step()
    theirs = [w.detach().numpy() for w in weights]
    ours = sparseadam.trajectory(params, grads, rows=rows, **options)
    assert_same(ours, theirs)
    # without `rows`, the row of zeros at step 7 is left alone, and only that differs
    del grads[7], rows[7]
    assert_same(
        sparseadam.trajectory(params, grads, **options),
        sparseadam.trajectory(params, grads, rows=rows, **options),
        0,
        0,
    )


def test_sparseadam_by_hand():
    # row 0 at both steps, row 1 only at the second. beta1 = beta2 = 1/2, eps = 0: a row's first step is, on the clock
    # of the row, lr * sign(g); on the tensor's clock sqrt(3/4) / (3/4) * (1/2) / sqrt(1/2) = sqrt(2/3) of it
    grads = [[np.array([[2.0], [0.0]])], [np.array([[2.0], [5.0]])]]
    options = {"lr": 0.1, "betas": (0.5, 0.5), "eps": 0.0}
    start = [np.array([[1.0], [1.0]])]
    assert_same(sparseadam.trajectory(start, grads, **options), [np.array([[0.8], [1 - 0.1 * (2 / 3) ** 0.5]])])
    assert_same(sparseadam.trajectory(start, grads, clock="row", **options), [np.array([[0.8], [0.9]])])


# Every optimizer, with every hyperparameter off its default, for what must hold of all of them.
EVERY = [
    (sgd, {"lr": 0.02, "momentum": 0.8, "nesterov": True, "weight_decay": 0.1}),
    (adagrad, {"lr": 0.1, "lr_decay": 0.1, "weight_decay": 0.1}),
    (rmsprop, {"lr": 0.03, "alpha": 0.8, "momentum": 0.7, "centered": True, "weight_decay": 0.1}),
    (adam, ADAM),
    (adamw, ADAM),
    (adadelta, {"lr": 0.3, "rho": 0.8, "eps": 1e-2, "weight_decay": 0.1}),
    (adamax, ADAM),
    (nadam, ADAM),
    (radam, ADAM),
    (asgd, {"lr": 0.05, "lambd": 0.3, "alpha": 0.6, "t0": 6.0, "weight_decay": 0.1}),
    (rprop, {"lr": 0.05, "etas": (0.4, 1.5), "step_sizes": (0.02, 0.2)}),
    (lion, {"lr": 0.01, "betas": (0.8, 0.95), "weight_decay": 0.1}),
    (signum, {"lr": 0.01, "momentum": 0.8, "weight_decay": 0.1}),
    (adabelief, ADAM | {"rectify": True, "amsgrad": True}),
    (adan, ADAM | {"betas": (0.9, 0.8, 0.95)}),
    (adopt, ADAM),
    (ademamix, ADAM | {"betas": (0.8, 0.95, 0.99), "alpha": 3.0, "alpha_warmup": 7, "beta3_warmup": 9}),
    (mars, ADAM | {"gamma": 0.1, "amsgrad": True}),
    (laprop, ADAM | {"amsgrad": True}),
    (adamatan2, {"lr": 0.03, "betas": (0.8, 0.95), "weight_decay": 0.1, "a": 1.27, "b": 0.5}),
    (schedulefreesgd, {"lr": 0.03, "momentum": 0.8, "weight_decay": 0.1, "warmup_steps": 5, "r": 0.5}),
    (schedulefreeadamw, ADAM | {"warmup_steps": 5, "r": 0.5, "weight_lr_power": 1.5}),
]
NAMES = [paper.__name__.rpartition(".")[2] for paper, _ in EVERY]


@pytest.mark.parametrize(("paper", "options"), EVERY, ids=NAMES)
def test_leaves_its_inputs_alone(paper, options):
    params, grads = problem()
    copies = [p.copy() for p in params], [[None if g is None else g.copy() for g in row] for row in grads]
    result = paper.trajectory(params, grads, **options)
    for p, q, r in zip(params, copies[0], result, strict=True):
        assert np.array_equal(p, q)
        assert r is not p
        assert r.shape == p.shape
        assert np.isfinite(r).all()
        assert not np.array_equal(r, p)
    for row, kept in zip(grads, copies[1], strict=True):
        assert all(g is None if k is None else np.array_equal(g, k) for g, k in zip(row, kept, strict=True))


@pytest.mark.parametrize(("paper", "options"), EVERY, ids=NAMES)
def test_maximize_is_a_negated_gradient(paper, options):
    params, grads = problem()
    negated = [[None if g is None else -g for g in row] for row in grads]
    assert_same(
        paper.trajectory(params, grads, maximize=True, **options), paper.trajectory(params, negated, **options), 0, 0
    )


@pytest.mark.parametrize(("paper", "options"), EVERY, ids=NAMES)
def test_a_tensor_without_gradient_does_not_exist(paper, options):
    """Steps without a gradient leave no trace: alone, and with them cut out, the tensor ends at the same place."""
    params, grads = problem()
    i = LATE
    alone = paper.trajectory([params[i]], [[row[i]] for row in grads], **options)
    cut = paper.trajectory([params[i]], [[row[i]] for row in grads if row[i] is not None], **options)
    assert_same(alone, cut, 0, 0)
    never = paper.trajectory(params[:1], [[None]] * 5, **options)
    assert np.array_equal(never[0], params[0])


def one(value):
    return [np.array(value, dtype=np.float64)]


def scaled(grads, factor):
    return [[None if g is None else factor * g for g in row] for row in grads]


def test_sgd_by_hand():
    # decoupled: p = 2 - 0.1 * 0.5 * 2 = 1.9; buffer = 3, step 0.3 -> 1.6
    # then p = 1.6 - 0.08 = 1.52; buffer = 0.9 * 3 + 0.75 * 1 = 3.45 -> 1.175
    options = {"lr": 0.1, "momentum": 0.9, "dampening": 0.25, "weight_decay": 0.5, "decoupled_weight_decay": True}
    assert_same(sgd.trajectory(one([2.0]), [one([3.0]), one([1.0])], **options), one([1.175]))
    # first step dampened: buffer = 0.75 * 3 = 2.25 -> 1.9 - 0.225
    assert_same(sgd.trajectory(one([2.0]), [one([3.0])], first_step_dampened=True, **options), one([1.675]))


def test_rmsprop_tensorflow_by_hand():
    # v = 0.75 * 1 + 0.25 * 4 = 1.75; root of v + 0.5 = 1.5; step 0.3 * 2 / 1.5 = 0.4
    options = {"lr": 0.3, "alpha": 0.75, "eps": 0.5, "eps_inside_sqrt": True, "initial_square_avg": 1.0}
    assert_same(rmsprop.trajectory(one([1.0]), [one([2.0])], **options), one([0.6]))
    # decoupled decay: 1 - 0.3 * 0.5 = 0.85 first
    options |= {"weight_decay": 0.5, "decoupled_weight_decay": True}
    assert_same(rmsprop.trajectory(one([1.0]), [one([2.0])], **options), one([0.45]))


def test_adagrad_by_hand():
    # s = 3 + 1 = 4 (+ 5 inside the root = 9): step 0.6 / 3 = 0.2 after a decay of 0.6 * 0.5 * 1
    options = {"lr": 0.6, "eps": 5.0, "initial_accumulator_value": 3.0, "eps_inside_sqrt": True}
    assert_same(adagrad.trajectory(one([1.0]), [one([1.0])], **options), one([0.8]))
    options |= {"weight_decay": 0.5, "decoupled_weight_decay": True}
    assert_same(adagrad.trajectory(one([1.0]), [one([1.0])], **options), one([0.5]))


@pytest.mark.parametrize("paper", [adam, adamw])
def test_three_amsgrad_sequences_by_hand(paper):
    # g = 4 then 0, beta1 = 0, beta2 = 1/2: v = 8, then 4; bias corrections 1/2, 3/4.  beta1 = 0, so only the second
    # moment matters, and the second step has no direction at all; so g2 = 1: v = 8, then 4.5.
    #   torch: largest raw 8 / (3/4) = 32/3;  corrected: max(16, 6) = 16;  paper: 8, uncorrected
    for sequence, first, second in [("torch", 16.0, 32 / 3), ("corrected", 16.0, 16.0), ("paper", 8.0, 8.0)]:
        options = {"lr": 0.5, "betas": (0.0, 0.5), "eps": 0.25, "weight_decay": 0.0, "amsgrad": True}
        expected = 1.0 - 0.5 * 4.0 / (first**0.5 + 0.25) - 0.5 * 1.0 / (second**0.5 + 0.25)
        assert_same(
            paper.trajectory(one([1.0]), [one([4.0]), one([1.0])], amsgrad_sequence=sequence, **options),
            one([expected]),
        )


def test_adam_efficient_form_by_hand():
    # m = 0.1 * 2, v = 0.01 * 4: 0.5 * sqrt(0.01) / 0.1 * 0.2 / (0.2 + 0.3) = 0.5 * 0.2 / 0.5 = 0.2
    options = {"lr": 0.5, "betas": (0.9, 0.99), "eps": 0.3, "form": "efficient"}
    assert_same(adam.trajectory(one([1.0]), [one([2.0])], **options), one([0.8]))


def test_adamw_paper_decay_by_hand():
    # 1 - 0.25 * 1 - 0.125 * sign(g) / (1 + 0) with eps = 0
    options = {"lr": 0.125, "eps": 0.0, "weight_decay": 0.25, "decay_times_lr": False}
    assert_same(adamw.trajectory(one([1.0]), [one([7.0])], **options), one([0.625]))


def test_adamax_eps_outside_by_hand():
    # m / (1 - beta1) = 2, u = 2: 0.5 * 2 / (2 + 3)
    options = {"lr": 0.5, "eps": 3.0, "eps_placement": "outside"}
    assert_same(adamax.trajectory(one([1.0]), [one([2.0])], **options), one([0.8]))


@pytest.mark.parametrize("paper", [adadelta, adamax])
def test_decoupled_decay_is_a_factor_before_the_step(paper):
    params, grads = problem(steps=1, late=None)
    options = {"lr": 0.3, "decoupled_weight_decay": True, "weight_decay": 0.5}
    plain = paper.trajectory(params, grads, lr=0.3)
    decayed = paper.trajectory(params, grads, **options)
    assert_same(decayed, [q - 0.3 * 0.5 * p for p, q in zip(params, plain, strict=True)])


def test_nadam_with_the_papers_average_by_hand():
    # momentum_decay = 0: mu = beta1 / 2 = 1/4 throughout. m = 3/4 g; 1/4 / (1 - 1/16) * 3/4 g + 3/4 / (3/4) g = 1.2
    # g; vhat = g^2
    options = {"lr": 0.5, "betas": (0.5, 0.9), "eps": 0.0, "momentum_decay": 0.0}
    assert_same(nadam.trajectory(one([1.0]), [one([2.0])], average_with="mu", **options), one([0.4]))
    # torch: m = 1/2 g: (4/15 * 1/2 + 1) g
    assert_same(nadam.trajectory(one([1.0]), [one([2.0])], **options), one([1 - 0.5 * (1 + 2 / 15)]))


def test_radam_starts_to_adapt_where_each_source_says():
    # beta2 = 0.9, rho_inf = 19: rho = 1, 1.947.., 2.89, 3.82, 4.74, 5.65: torch adapts from step 6, the paper from
    # step 5.
    grads = [one([1.0])] * 6
    options = {"lr": 0.1, "betas": (0.0, 0.9), "eps": 0.0}

    def moved(steps, **more):
        before = radam.trajectory(one([0.0]), grads[: steps - 1], **options, **more)[0][0]
        return before - radam.trajectory(one([0.0]), grads[:steps], **options, **more)[0][0]

    def rectifier(t):
        rho = 19 - 2 * t * 0.9**t / (1 - 0.9**t)
        return ((rho - 4) * (rho - 2) * 19 / (15 * 17 * rho)) ** 0.5

    for rectify, first in [("torch", 6), ("authors", 6), ("paper", 5)]:
        for t in range(1, 7):
            expected = 0.1 * rectifier(t) if t >= first else 0.1
            np.testing.assert_allclose(moved(t, rectify=rectify), expected, rtol=1e-12)
            expected = 0.1 * rectifier(t) if t >= first else 0.0
            np.testing.assert_allclose(
                moved(t, rectify=rectify, degenerated_to_sgd=False), expected, rtol=1e-12, atol=1e-15
            )
    # beta2 = 1/2 and t = 1: rho_inf = 3 never adapts; without the momentum step nothing moves, and nothing decays
    options = {"weight_decay": 0.1, "decoupled_weight_decay": True, "betas": (0.0, 0.5)}
    still = radam.trajectory(one([2.0]), [one([1.0])], lr=0.1, degenerated_to_sgd=False, **options)
    assert_same(still, one([2.0]), 0, 0)


def test_rprop_takes_back_a_step_by_hand():
    # + + - -: 0.1, 0.12 down; at the turn the size is halved, riedmiller takes 0.12 back, torch stays; then 0.06 up
    grads = [one([1.0]), one([5.0]), one([-1.0]), one([-1.0])]
    assert_same(rprop.trajectory(one([1.0]), grads, lr=0.1), one([1 - 0.22 + 0.06]))
    assert_same(rprop.trajectory(one([1.0]), grads, lr=0.1, variant="riedmiller"), one([1 - 0.22 + 0.12 + 0.06]))


def test_lion_by_hand():
    # first step: decay, then lr times the sign, sign(0) = 0
    options = {"lr": 0.1, "betas": (0.5, 0.75), "weight_decay": 0.5}
    assert_same(
        lion.trajectory(one([2.0, 2.0, 2.0]), [one([3.0, -1e-9, 0.0])], **options), one([1.9 - 0.1, 1.9 + 0.1, 1.9])
    )
    # second: m = 0.25 * 8 = 2, c = 0.5 * 2 - 0.5 * 1 > 0, while an average kept with beta1 would be at 4 and one
    # without momentum < 0 third:  m = 0.75 * 2 - 0.25 = 1.25, c = 0.5 * 1.25 - 0.5 * 1.5 < 0
    assert_same(
        lion.trajectory(one([0.0]), [one([8.0]), one([-1.0]), one([-1.5])], lr=0.1, betas=(0.5, 0.75)), one([-0.1])
    )


def test_lion_ignores_gradient_scale():
    params, grads = problem()
    options = {"lr": 0.01, "betas": (0.8, 0.95), "weight_decay": 0.1}
    assert_same(
        lion.trajectory(params, scaled(grads, 1024.0), **options), lion.trajectory(params, grads, **options), 0, 0
    )


def test_signum_by_hand():
    # 2 -> decay to 1.9 -> 1.8; m = 1.5, then 0.25: still positive though the gradient has turned: 1.71 - 0.1
    options = {"lr": 0.1, "momentum": 0.5, "weight_decay": 0.5}
    assert_same(signum.trajectory(one([2.0]), [one([3.0]), one([-1.0])], **options), one([1.61]))
    assert_same(signum.trajectory(one([2.0]), [one([3.0]), one([-1.0])], lr=0.1, momentum=0.0), one([2.0]))
    # coupled: -0.9 + 0.5 * 2 > 0
    coupled = signum.trajectory(one([2.0]), [one([-0.9])], decoupled_weight_decay=False, **options)
    assert_same(coupled, one([1.9]))


@pytest.mark.parametrize(
    ("variant", "directions"),
    [
        ("paper", [0.5, 1.0, -1.0, 0.0]),  # m / (rho h) = m / 0.5, at most 1
        ("v1", [0.25, 0.5, -0.5, 0.0]),  # m / h = m, at most rho = 0.5
        ("code", [0.25, 1.0, -1.0, 0.0]),  # m / (rho bs h) = m / 1, at most 1
    ],
)
def test_sophia_by_hand(variant, directions):
    # m = g / 2 = 0.25, 4, -4, 0;  h = 4 / 4 = 1;  decay 0.1 first
    grads, hessians = [one([0.5, 8.0, -8.0, 0.0])], [one([4.0] * 4)]
    options = {"lr": 0.1, "betas": (0.5, 0.75), "rho": 0.5, "weight_decay": 1.0, "variant": variant, "bs": 2.0}
    expected = 0.9 - 0.1 * np.array(directions)
    assert_same(sophia.trajectory(one([1.0] * 4), grads, hessians=hessians, **options), [expected])
    # a second step, with no gradient of its own (m halves) and no estimate (h stays 1)
    scale = {"paper": 0.5, "v1": 1.0, "code": 1.0}[variant]
    limit = {"paper": 1.0, "v1": 0.5, "code": 1.0}[variant]
    expected = 0.9 * expected - 0.1 * np.clip(np.array([0.125, 2.0, -2.0, 0.0]) / scale, -limit, limit)
    grads, hessians = [*grads, one([0.0] * 4)], [*hessians, [None]]
    assert_same(sophia.trajectory(one([1.0] * 4), grads, hessians=hessians, **options), [expected])


def test_sophia_hessian_absent_negative_or_late():
    options = {"lr": 0.1, "betas": (0.5, 0.75), "rho": 0.5, "weight_decay": 0.0}
    grads = [one([0.5, -8.0]), one([0.5, -8.0])]
    by_sign = one([0.8, 1.2])
    assert_same(sophia.trajectory(one([1.0, 1.0]), grads, hessians=[[None], [None]], **options), by_sign)
    negative = [one([-4.0, -4.0])] * 2
    assert_same(sophia.trajectory(one([1.0, 1.0]), grads, hessians=negative, **options), by_sign)
    # the authors' loop: the first estimate counts from the second step, where m = 0.375, -6 and h = 1
    late = sophia.trajectory(
        one([1.0, 1.0]), grads, hessians=[one([4.0, 4.0]), [None]], hessian_after_step=True, **options
    )
    assert_same(late, one([0.9 - 0.1 * 0.75, 1.1 + 0.1]))
    # an estimate without a gradient is averaged in, and nothing moves
    still = sophia.trajectory(one([1.0]), [[None], one([0.5])], hessians=[one([4.0]), [None]], **options)
    assert_same(still, one([1.0 - 0.1 * 0.5]))


def test_adabelief_by_hand():
    # g = 2: m = 1, s = 1/4 * (2 - 1)^2 + eps = 1, corrected 4: 2 / (2 + 0.75)
    # g = 1: m = 1, g - m = 0, s = 3/4 + eps = 1.5 where eps has accumulated, else 3/4 * 1/4 + eps = 0.9375
    options = {"lr": 0.55, "betas": (0.5, 0.75), "eps": 0.75}
    assert_same(adabelief.trajectory(one([1.0]), [one([2.0])], **options), one([0.6]))
    for accumulates, s in [(True, 1.5), (False, 0.9375)]:
        expected = 0.6 - 0.55 * (1 / 0.75) / ((s / 0.4375) ** 0.5 + 0.75)
        result = adabelief.trajectory(one([1.0]), [one([2.0]), one([1.0])], eps_accumulates=accumulates, **options)
        assert_same(result, one([expected]))
    # amsgrad, eps kept clean: the first s of 1 is the larger
    expected = 0.6 - 0.55 * (1 / 0.75) / ((1 / 0.4375) ** 0.5 + 0.75)
    result = adabelief.trajectory(one([1.0]), [one([2.0]), one([1.0])], amsgrad=True, eps_accumulates=False, **options)
    assert_same(result, one([expected]))
    # three decays of 2 by 0.25, then the same step of 0.4 (coupled: g = 1.5 + 0.5)
    decays = [(2.0, {}, 2 - 0.55 * 0.5), (2.0, {"fixed_decay": True}, 1.5), (1.5, {"weight_decouple": False}, 2.0)]
    for g, more, left in decays:
        result = adabelief.trajectory(one([2.0]), [one([g])], weight_decay=0.25, **more, **options)
        assert_same(result, one([left - 0.4]))


def test_adabelief_rectified_by_hand():
    # g = 1 throughout and beta1 = 0: g - m = 0, s = eps * (1 - 0.9^t) / 0.1. Momentum steps to t = 5, adaptive from t
    # = 6
    options = {"lr": 0.1, "betas": (0.0, 0.9), "eps": 0.01, "rectify": True}
    correction = 1 - 0.9**6
    rho = 19 - 12 * 0.9**6 / correction
    r = ((rho - 4) * (rho - 2) * 19 / (15 * 17 * rho)) ** 0.5
    last = 0.1 * r * correction**0.5 / ((0.1 * correction) ** 0.5 + 0.01)
    assert_same(adabelief.trajectory(one([1.0]), [one([1.0])] * 6, **options), one([0.5 - last]))
    result = adabelief.trajectory(one([1.0]), [one([1.0])] * 6, degenerated_to_sgd=False, **options)
    assert_same(result, one([1.0 - last]))


def test_adan_by_hand():
    # first step lr * sign(g), whatever the betas, and then the proximal division
    first = adan.trajectory(one([1.1]), [one([5.0])], lr=0.1, eps=0.0, weight_decay=1.0)
    assert_same(first, one([1.0 / 1.1]))
    first = adan.trajectory(one([1.1]), [one([5.0])], lr=0.1, eps=0.0, weight_decay=1.0, no_prox=True)
    assert_same(first, one([1.1 - 0.11 - 0.1]))
    # g = 5, 3 and all betas 1/2: m = 2.75, v = -1, n = 8.25, all corrected by 3/4: (2.75 - 0.5) / 0.75 / sqrt(11)
    options = {"lr": 0.1, "betas": (0.5, 0.5, 0.5), "eps": 0.0}
    grads = [one([5.0]), one([3.0])]
    assert_same(adan.trajectory(one([1.0]), grads, **options), one([0.9 - 0.1 * 3 / 11**0.5]))
    # as in the paper: m = 5, then 4; v = 0, then -1; n = 25, then 14.5
    result = adan.trajectory(one([1.0]), grads, bias_correction=False, **options)
    assert_same(result, one([0.9 - 0.1 * 3.5 / 14.5**0.5]))
    # the group's clock: a first gradient at step 2 is corrected by 3/4 where 1/2 would be right
    result = adan.trajectory(one([1.0]), [[None], one([5.0])], clock="group", **options)
    assert_same(result, one([1 - 0.1 * (2 / 3) ** 0.5]))


def test_adopt_by_hand():
    # the first gradient only sets v = 4. 6 / 2 = 3 is clipped to 1, m = 1/2. v = 3 + 9 = 12, 1.1 < 2^(1/4) is not
    # clipped
    options = {"lr": 0.1, "betas": (0.5, 0.75), "weight_decay": 1.0}
    grads = [one([2.0]), one([6.0]), one([1.1 * 12**0.5])]
    assert_same(adopt.trajectory(one([1.0]), grads[:1], **options), one([1.0]), 0, 0)
    assert_same(adopt.trajectory(one([1.0]), grads[:2], **options), one([0.85]))
    assert_same(adopt.trajectory(one([1.0]), grads, **options), one([0.85 * 0.9 - 0.1 * 0.8]))
    for more, expected in [
        ({"clip_power": None}, 0.9 - 0.1 * 1.5),
        ({"first_moment": "full"}, 0.9 - 0.1),
        ({"decay_on_first_call": True}, 0.81 - 0.05),
        ({"eps": 12.0}, 0.9 - 0.1 * 0.25),
    ]:
        assert_same(adopt.trajectory(one([1.0]), grads[:2], **options | more), one([expected]))
    # coupled: v = (1 + 1)^2, then (5 + 1) / 2
    coupled = adopt.trajectory(one([1.0]), [one([1.0]), one([5.0])], **options, decouple=False)
    assert_same(coupled, one([0.95]))


def test_ademamix_by_hand():
    # first step: (g + alpha * (1 - beta3) * g) / |g|
    betas = (0.5, 0.9, 0.5 ** (1 / 3))  # half-lives, minus 1: 0 and 2
    options = {"lr": 0.1, "betas": betas, "alpha": 2.0, "eps": 0.0, "weight_decay": 0.5}
    slow = 1 - 0.5 ** (1 / 3)
    for more, expected in [
        ({}, 1 + 2 * slow),
        ({"alpha_warmup": 4}, 1 + 0.5 * slow),
        ({"alpha_warmup": 4, "scheduler_start": 0}, 1.0),
        ({"beta3_warmup": 2}, 1 + 2 * (1 - 0.5**0.5)),
        ({"beta3_warmup": 2, "scheduler_start": 0}, 1 + 2 * 0.5),
        ({"beta3_warmup": 1}, 1 + 2 * slow),
    ]:
        result = ademamix.trajectory(one([1.0]), [one([7.0])], **options, **more)
        assert_same(result, one([0.95 - 0.1 * expected]))
    # beta1 = 0 warms up from no memory at all
    result = ademamix.trajectory(
        one([1.0]), [one([7.0])], lr=0.1, betas=(0.0, 0.9, 0.9), eps=0.0, beta3_warmup=4, scheduler_start=0
    )
    assert_same(result, one([1 - 0.1 * 3]))


def test_mars_by_hand():
    # gamma * beta1 / (1 - beta1) = 1/2. Unclipped: c = g1, then g2 + (g2 - g1) / 2 = 0.6, 0.4
    g1, g2 = np.array([0.3, 0.4]), np.array([0.5, 0.4])
    options = {"lr": 0.1, "betas": (0.5, 0.5), "eps": 0.0, "gamma": 0.5, "weight_decay": 0.5}

    def second(c1, c2, s1, s2):
        return (0.25 * c1 + 0.5 * c2) / (0.75 * (0.25 * s1 + 0.5 * s2)) ** 0.5

    c2 = np.array([0.6, 0.4])
    start, once = one([1.0, 1.0]), 0.85
    assert_same(mars.trajectory(start, [[g1]], **options), one([once, once]))
    expected = 0.95 * once - 0.1 * second(g1, c2, g1**2, c2**2)
    assert_same(mars.trajectory(start, [[g1], [g2]], **options), [expected])
    expected = 0.95 * once - 0.1 * second(g1, c2, g1**2, g2**2)
    assert_same(mars.trajectory(start, [[g1], [g2]], second_moment="raw", **options), [expected])
    expected = 0.95 * once - 0.1 * second(1.5 * g1, c2, 2.25 * g1**2, c2**2)
    assert_same(mars.trajectory(start, [[g1], [g2]], first_previous="zero", **options), [expected])
    # the clipping: 10 g1 has norm 5 and becomes 2 g1; then g2 - 10 g1 = -2.5, -3.6; c = -0.75, -1.4, of norm 1.588
    c2 = np.array([-0.75, -1.4]) / (0.75**2 + 1.4**2) ** 0.5
    expected = 0.95 * once - 0.1 * second(2 * g1, c2, 4 * g1**2, c2**2)
    assert_same(mars.trajectory(start, [[10 * g1], [g2]], **options), [expected])
    # exact: the previous point's gradient on this batch is g2 itself, so there is no correction
    expected = 0.95 * once - 0.1 * second(g1, g2, g1**2, g2**2)
    assert_same(mars.trajectory(start, [[g1], [g2]], previous_grads=[[None], [g2]], **options), [expected])


def test_mars_is_adamw_where_it_says_so():
    params, grads = problem()
    grads = scaled(grads, 1e-3)  # below the clipping
    grads = [[None if g is None else g / max(1.0, np.sqrt(np.sum(g**2))) for g in row] for row in grads]
    expected = adamw.trajectory(params, grads, **ADAM)
    assert_same(mars.trajectory(params, grads, gamma=0.0, **ADAM), expected)
    one_d = {"lr_1d": 0.03, "betas_1d": (0.8, 0.95), "weight_decay_1d": 0.1, "optimize_1d": False, "eps": 1e-3}
    mixed = mars.trajectory(params, grads, lr=0.5, gamma=0.5, **one_d)
    full = mars.trajectory(params, grads, lr=0.5, gamma=0.5, eps=1e-3)
    for i, p in enumerate(params):
        assert_same([mixed[i]], [full[i] if p.ndim == 2 else expected[i]])


def test_laprop_by_hand():
    # n = 4 (corrected 16): the first step is lr * sign(g). n = 3.25 (corrected by 0.4375), m = 0.25 + 0.5 / sqrt(..)
    options = {"lr": 0.1, "betas": (0.5, 0.75), "eps": 0.0}
    grads = [one([4.0]), one([1.0])]
    m = 0.25 + 0.5 / (3.25 / 0.4375) ** 0.5
    assert_same(laprop.trajectory(one([1.0]), grads, **options), one([0.9 - 0.1 * m / 0.75]))
    m = 0.25 + 0.5 / (4 / 0.4375) ** 0.5
    assert_same(laprop.trajectory(one([1.0]), grads, amsgrad=True, **options), one([0.9 - 0.1 * m / 0.75]))
    for decay, expected in [("decoupled", 0.95 - 0.1), ("authors", 0.9 * 0.5)]:
        result = laprop.trajectory(one([1.0]), grads[:1], weight_decay=0.5, decay=decay, **options)
        assert_same(result, one([expected]))


def test_adamatan2_by_hand():
    # mhat = g, sqrt(vhat) = |g|: an eighth of a turn. No gradient: no step, and no warning for 0 / 0
    options = {"lr": 0.1, "a": 4 / np.pi, "weight_decay": 0.5}
    assert_same(adamatan2.trajectory(one([1.0, 1.0, 1.0]), [one([7.0, -7.0, 0.0])], **options), one([0.85, 1.05, 0.95]))
    result = adamatan2.trajectory(one([1.0]), [one([7.0])], lr=0.1, b=3**0.5)
    assert_same(result, one([1 - 0.1 * np.pi / 6]))


@pytest.mark.parametrize(
    ("paper", "options"),
    [
        (adamatan2, {"lr": 0.03, "betas": (0.8, 0.95), "weight_decay": 0.1}),
        (signum, {"lr": 0.03, "momentum": 0.8, "weight_decay": 0.1}),
        (laprop, ADAM | {"eps": 0.0}),
        (adan, ADAM | {"betas": (0.9, 0.8, 0.95), "eps": 0.0}),
        (adam, {"lr": 0.03, "eps": 0.0}),
    ],
)
def test_gradient_scale_does_not_matter(paper, options):
    params, grads = problem()
    assert_same(paper.trajectory(params, scaled(grads, 1024.0), **options), paper.trajectory(params, grads, **options))


def test_schedulefreesgd_by_hand():
    # z = 0.8, 0.7; x = 0.8, 0.75; y = x, then between them
    grads = [one([2.0]), one([1.0])]
    for point, expected in [("x", 0.75), ("y", 0.725), ("z", 0.7)]:
        result = schedulefreesgd.trajectory(one([1.0]), grads, lr=0.1, momentum=0.5, point=point)
        assert_same(result, one([expected]))
    # decay at y or z: third step from z = 0.7, y = 0.725 with a gradient of zero
    for decay_at, where in [("y", 0.725), ("z", 0.7)]:
        grown = [*grads, one([0.0])]
        grown[0] = one([1.5])  # 1.5 + 0.5 * 1 = 2
        grown[1] = one([0.6])  # 0.6 + 0.5 * 0.8 = 1
        result = schedulefreesgd.trajectory(
            one([1.0]), grown, lr=0.1, momentum=0.5, weight_decay=0.5, decay_at=decay_at, point="z"
        )
        assert_same(result, one([0.7 - 0.05 * where]))
    # how z2 is weighed against z1
    for more, c in [
        ({}, 1 / 2),
        ({"r": 1.0}, 2 / 3),
        ({"warmup_steps": 2}, 4 / 5),
        ({"warmup_steps": 2, "weight_lr_power": 1.0}, 2 / 3),
        ({"lr": [0.2, 0.1]}, 1 / 2),
        ({"lr": [0.2, 0.1], "weight_lr": "now"}, 1 / 5),
    ]:
        options = {"lr": 0.1, "momentum": 0.5} | more
        z1 = schedulefreesgd.trajectory(one([1.0]), grads[:1], point="z", **options)[0]
        z2 = schedulefreesgd.trajectory(one([1.0]), grads, point="z", **options)[0]
        x2 = schedulefreesgd.trajectory(one([1.0]), grads, point="x", **options)[0]
        assert_same([x2], [(1 - c) * z1 + c * z2])
    # a gradient that comes late: its own clock takes x to z, the group's only half way
    late = [[None], one([2.0])]
    assert_same(schedulefreesgd.trajectory(one([1.0]), late, lr=0.1, momentum=0.5, point="x"), one([0.8]))
    result = schedulefreesgd.trajectory(one([1.0]), late, lr=0.1, momentum=0.5, point="x", clock="group")
    assert_same(result, one([0.9]))


def test_schedulefreesgd_without_momentum_is_sgd():
    params, grads = problem()
    options = {"lr": 0.03, "weight_decay": 0.1}
    assert_same(
        schedulefreesgd.trajectory(params, grads, momentum=0.0, **options), sgd.trajectory(params, grads, **options)
    )


def test_schedulefreeadamw_by_hand():
    # sqrt(1 - beta2) = 1/2. package: z = 1 - 0.1 * (sign + 1 * y); paper: z = 1 - 0.05 * (2 * sign + 1 * y)
    options = {"lr": 0.1, "betas": (0.5, 0.75), "eps": 0.0, "weight_decay": 1.0}
    assert_same(schedulefreeadamw.trajectory(one([1.0]), [one([7.0])], **options), one([0.8]))
    assert_same(schedulefreeadamw.trajectory(one([1.0]), [one([7.0])], correction="paper", **options), one([0.85]))
    # the second step's weight: equal, or 0.4375 : 0.25
    grads = [one([7.0]), one([7.0])]
    options["weight_decay"] = 0.0
    assert_same(schedulefreeadamw.trajectory(one([1.0]), grads, point="z", **options), one([0.8]))
    assert_same(schedulefreeadamw.trajectory(one([1.0]), grads, point="x", **options), one([0.85]))
    assert_same(schedulefreeadamw.trajectory(one([1.0]), grads, **options), one([0.825]))
    result = schedulefreeadamw.trajectory(one([1.0]), grads, point="x", correction="paper", **options)
    assert_same(result, one([0.9 - 0.1 * 0.4375 / 0.6875]))


def test_cautious_by_hand():
    direction, gradient = np.array([1.0, 2.0, -3.0, 4.0]), np.array([1.0, -1.0, -1.0, 0.0])
    for scaling, scale in [("clamped_mean", 2.0), ("dim_over_nnz", 4 / 3), ("mean_eps", 1.0)]:
        result = cautious(direction, gradient, scaling, eps=0.5)
        assert_same([result], [scale * np.array([1.0, 0.0, -3.0, 0.0])])
        assert_same([cautious(direction, -direction, scaling)], [np.zeros(4)], 0, 0)
    # one of 10 000 agrees: the limit of 1e-3 holds it at 1000
    direction = np.ones(10_000)
    gradient = -np.ones(10_000)
    gradient[0] = 1.0
    assert cautious(direction, gradient)[0] == pytest.approx(1000)
    assert cautious(np.array(2.0), np.array(1.0)).shape == ()
