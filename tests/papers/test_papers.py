"""The transcriptions are themselves tested: against torch.optim in float64 where torch has the optimizer, else
against first steps worked by hand and against what a change of units must not change."""

import numpy as np
import pytest
import torch

from . import (
    adabelief,
    adadelta,
    adafactor,
    adagrad,
    adam,
    adamatan2,
    adamax,
    adamw,
    adan,
    ademamix,
    adopt,
    asgd,
    dadaptadam,
    lamb,
    laprop,
    lars,
    lion,
    mars,
    muon,
    nadam,
    novograd,
    prodigy,
    radam,
    rmsprop,
    rprop,
    schedulefreeadamw,
    schedulefreesgd,
    sgd,
    shampoo,
    signum,
    soap,
    sophia,
    sparseadam,
    stableadamw,
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
    (rprop, torch.optim.Rprop, {"lr": 0.05, "step_sizes": (0, 0.2)}),
    (adafactor, torch.optim.Adafactor, {}),
    (
        adafactor,
        torch.optim.Adafactor,
        {"lr": 0.3, "beta2_decay": -0.6, "eps": (1e-2, 0.5), "d": 1.3, "weight_decay": 0.1, "maximize": True},
    ),
    (adafactor, torch.optim.Adafactor, {"lr": 0.3, "eps": (1.0, 0.5), "weight_decay": 0.1}),
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


def test_asgd_average_by_hand():
    # iterates 0.9, 0.8, 0.7, 0.6, with weights 1, 1, 1/2, 1/3
    for steps, expected in [(1, 0.9), (2, 0.8), (3, 0.75), (4, 0.7)]:
        result = asgd.trajectory(one([1.0]), [one([1.0])] * steps, lr=0.1, lambd=0.0, t0=0.0, point="ax")
        assert_same(result, one([expected]))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"lr": 0.05, "weight_decay": 0.3, "momentum": 0.8, "adjust_lr_fn": "match_rms_adamw", "ns_steps": 4},
        {"lr": 0.05, "weight_decay": 0.3, "momentum": 0.8, "nesterov": False, "adjust_lr_fn": "original"},
        {"lr": 0.05, "ns_coefficients": (2.0, -1.5, 0.5), "eps": 3.0},
    ],
)
def test_muon_agrees_with_torch(monkeypatch, options):
    """torch orthogonalises in bfloat16; kept in float64 it must agree. Five rounds of the quintic multiply small
    singular values, and the rounding in them, by 3.4 each: 2e-14 of 1 at the worst, so the tolerance is 1e-11."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    params, grads = problem([(5, 3), (3, 5), (4, 4), (1, 4)])
    assert_same(
        muon.trajectory(params, grads, **options), by_torch(torch.optim.Muon, params, grads, **options), rtol=1e-11
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
    (stableadamw, ADAM | {"clip_thresh": 0.7}),
    (lamb, ADAM | {"max_weight_norm": 2.0}),
    (lars, {"lr": 0.5, "momentum": 0.8, "dampening": 0.1, "weight_decay": 0.1, "trust_coefficient": 0.1, "eps": 1e-3}),
    (novograd, ADAM | {"grad_averaging": True, "amsgrad": True}),
    (prodigy, ADAM | {"lr": 0.7, "d0": 1e-2, "d_coef": 3.0, "use_bias_correction": True}),
    (dadaptadam, ADAM | {"lr": 0.7, "d0": 1e-2, "use_bias_correction": True, "decouple": True}),
    (adafactor, {"lr": 0.3, "beta2_decay": -0.6, "eps": (1e-2, 0.5), "d": 1.3, "weight_decay": 0.1}),
    (adafactor, {"variant": "shazeer", "beta1": 0.8, "weight_decay": 0.1}),
    (muon, {"lr": 0.05, "momentum": 0.8, "weight_decay": 0.2, "adjust_lr_fn": "match_rms_adamw"}),
    (shampoo, {"lr": 0.05, "beta1": 0.5, "beta2": 0.9, "eps": 1e-2, "momentum": 0.8, "precondition_every": 3}),
    (shampoo, {"lr": 0.05, "eps": 1e-2, "grafting": "adam", "weight_decay": 0.1}),
    (soap, ADAM | {"shampoo_beta": 0.8, "precondition_frequency": 4}),
    (schedulefreeadamw, ADAM | {"warmup_steps": 5, "r": 0.5, "weight_lr_power": 1.5}),
]
NAMES = [paper.__name__.rpartition(".")[2] for paper, _ in EVERY]
MATRICES = [(5, 3), (3, 5), (2, 3, 2, 2), (4, 4)]


def problem_for(paper, **options):
    return problem(MATRICES if paper is muon else SHAPES, **options)


@pytest.mark.parametrize(("paper", "options"), EVERY, ids=NAMES)
def test_leaves_its_inputs_alone(paper, options):
    params, grads = problem_for(paper)
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
    params, grads = problem_for(paper)
    negated = [[None if g is None else -g for g in row] for row in grads]
    assert_same(
        paper.trajectory(params, grads, maximize=True, **options), paper.trajectory(params, negated, **options), 0, 0
    )


@pytest.mark.parametrize(("paper", "options"), EVERY, ids=NAMES)
def test_a_tensor_without_gradient_does_not_exist(paper, options):
    """Steps without a gradient leave no trace: alone, and with them cut out, the tensor ends at the same place."""
    params, grads = problem_for(paper)
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
        ("paper", [0.25, 1.0, -1.0, 0.0]),  # m / (rho h) = m / 1, at most 1
        ("v1", [0.125, 0.5, -0.5, 0.0]),  # m / h = m / 2, at most rho = 0.5
        ("code", [0.125, 1.0, -1.0, 0.0]),  # m / (rho bs h) = m / 2, at most 1
    ],
)
def test_sophia_by_hand(variant, directions):
    # m = g / 2 = 0.25, 4, -4, 0;  h = 8 / 4 = 2;  decay 0.1 first
    grads, hessians = [one([0.5, 8.0, -8.0, 0.0])], [one([8.0] * 4)]
    options = {"lr": 0.1, "betas": (0.5, 0.75), "rho": 0.5, "weight_decay": 1.0, "variant": variant, "bs": 2.0}
    expected = 0.9 - 0.1 * np.array(directions)
    assert_same(sophia.trajectory(one([1.0] * 4), grads, hessians=hessians, **options), [expected])
    # a second step, with no gradient of its own (m halves) and no estimate (h stays 2)
    scale = {"paper": 1.0, "v1": 2.0, "code": 2.0}[variant]
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
    # no_prox, with the decay before the second step too; eps is added to the corrected root
    options |= {"weight_decay": 0.5, "no_prox": True}
    first = 0.95 - 0.1
    assert_same(adan.trajectory(one([1.0]), grads, **options), one([0.95 * first - 0.1 * 3 / 11**0.5]))
    options |= {"no_prox": False, "eps": 0.25}
    first = (1 - 0.1 * 5 / 5.25) / 1.05
    expected = (first - 0.1 * 3 / (11**0.5 + 0.25)) / 1.05
    assert_same(adan.trajectory(one([1.0]), grads, **options), one([expected]))
    options = {"lr": 0.1, "betas": (0.5, 0.5, 0.5), "eps": 0.0}
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
    # coupled, unclipped: v = (1 + 0.5 * 2)^2, then m = 1/2 * (4 + 0.5 * 2) / 2
    options |= {"weight_decay": 0.5, "clip_power": None}
    coupled = adopt.trajectory(one([2.0]), [one([1.0]), one([4.0])], **options, decouple=False)
    assert_same(coupled, one([2 - 0.125]))
    decoupled = adopt.trajectory(one([2.0]), [one([2.0]), one([5.0])], **options)
    assert_same(decoupled, one([1.9 - 0.125]))


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
    # eps, and half-lives between two that are not zero: minus 1, 2 and 5, so 3 at a third of the way
    options = {"lr": 0.1, "betas": (0.5 ** (1 / 3), 0.9, 0.5 ** (1 / 6)), "alpha": 2.0, "eps": 7.0, "beta3_warmup": 3}
    result = ademamix.trajectory(one([1.0]), [one([7.0])], **options)
    assert_same(result, one([1 - 0.1 * (1 + 2 * (1 - 0.5 ** (1 / 4))) * 7 / 14]))
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
    for decay, expected in [("decoupled", 1.9 - 0.1), ("authors", 1.9 * 0.5)]:
        result = laprop.trajectory(one([2.0]), grads[:1], weight_decay=0.5, decay=decay, **options)
        assert_same(result, one([expected]))
    result = laprop.trajectory(one([1.0]), grads[:1], lr=0.1, eps=4.0)
    assert_same(result, one([0.95]))


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
        (stableadamw, ADAM | {"eps": 0.0}),
        (lamb, ADAM | {"eps": 0.0}),
        (lars, {"lr": 0.5, "momentum": 0.8, "trust_coefficient": 0.1, "eps": 0.0}),
        (novograd, ADAM | {"eps": 0.0, "amsgrad": True}),
        (prodigy, {"lr": 0.7, "betas": (0.8, 0.95), "eps": 1e-30, "d0": 1e-2, "d_coef": 3.0}),
        (adafactor, {"eps": (0.0, 1e-3), "weight_decay": 0.1}),
        (adafactor, {"eps": (0.0, 1e-3), "variant": "shazeer", "beta1": 0.8}),
        (muon, {"lr": 0.05, "momentum": 0.8, "weight_decay": 0.2}),
        (soap, ADAM | {"eps": 0.0, "precondition_frequency": 3}),
    ],
)
def test_gradient_scale_does_not_matter(paper, options):
    params, grads = problem_for(paper)
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
        ({"warmup_steps": 4}, 4 / 5),
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
    # eps beside the corrected root of 7 (package) or the uncorrected 3.5 (paper); decay of 3
    options |= {"weight_decay": 0.5, "eps": 3.5}
    result = schedulefreeadamw.trajectory(one([3.0]), grads[:1], **options)
    assert_same(result, one([3 - 0.1 * (7 / 10.5 + 1.5)]))
    result = schedulefreeadamw.trajectory(one([3.0]), grads[:1], correction="paper", **options)
    assert_same(result, one([3 - 0.05 * (1.0 + 1.5)]))
    # warm-up: a third of the lr, then two thirds
    warming = {"lr": 0.3, "betas": (0.5, 0.75), "eps": 0.0, "warmup_steps": 3, "point": "z"}
    assert_same(schedulefreeadamw.trajectory(one([1.0]), grads, **warming), one([0.7]))
    # a falling lr: z = 0.8, 0.7, weighed 1 : 1 by the largest lr so far, 4 : 1 by the present one; decay at y or z
    falling = {"lr": [0.2, 0.1], "betas": (0.5, 0.75), "eps": 0.0}
    for weight_lr, c in [("max", 0.5), ("now", 0.2)]:
        result = schedulefreeadamw.trajectory(one([1.0]), grads, point="x", weight_lr=weight_lr, **falling)
        assert_same(result, one([0.8 - c * 0.1]))
    third = [*grads, one([0.0])]
    options = {"lr": 0.1, "betas": (0.5, 0.75), "eps": 0.0, "point": "z"}
    for decay_at in ["y", "z"]:
        y1 = 0.9 - 0.05  # first step: decay 0.5 of 1, at y and at z alike; then y = z
        z1 = y1
        z2 = z1 - 0.1 * (1 + 0.5 * y1)
        y2 = 0.5 * (z1 + z2) / 2 + 0.5 * z2
        z3 = z2 - 0.1 * 0.5 * (y2 if decay_at == "y" else z2)
        result = schedulefreeadamw.trajectory(one([1.0]), third, weight_decay=0.5, decay_at=decay_at, **options)
        assert_same(result, one([z3]))


def test_cautious_by_hand():
    direction, gradient = np.array([1.0, 2.0, -3.0, 4.0]), np.array([1.0, -1.0, -1.0, 0.0])
    for scaling, scale in [("clamped_mean", 2.0), ("dim_over_nnz", 4 / 3), ("mean_eps", 0.8)]:
        result = cautious(direction, gradient, scaling, eps=0.75)
        assert_same([result], [scale * np.array([1.0, 0.0, -3.0, 0.0])])
        assert_same([cautious(direction, -direction, scaling)], [np.zeros(4)], 0, 0)
    # one of 10 000 agrees: the limit of 1e-3 holds it at 1000
    direction = np.ones(10_000)
    gradient = -np.ones(10_000)
    gradient[0] = 1.0
    assert cautious(direction, gradient)[0] == pytest.approx(1000)
    assert cautious(np.array(2.0), np.array(1.0)).shape == ()


def test_stableadamw_by_hand():
    # first step: v = g^2, rms 1, no clipping. Then b1 = b2 = 1/3: m = 7/3, 1; v = 19/3, 1; rms^2 = (27/19 + 1) / 2
    options = {"lr": 0.1, "betas": (0.5, 0.5), "eps": 0.0, "weight_decay": 0.5}
    grads = [one([1.0, 1.0]), one([3.0, 1.0])]
    assert_same(stableadamw.trajectory(one([2.0, 2.0]), grads[:1], **options), one([1.8, 1.8]))
    d = np.array([7 / 3 / (19 / 3) ** 0.5, 1.0])
    eta = 0.1 / (23 / 19) ** 0.5
    for more, decay, step in [
        ({}, eta, eta),
        ({"decay_with": "raw"}, 0.1, eta),
        ({"clip_thresh": 2.0}, 0.1, 0.1),
        ({"clip_thresh": 0.5}, None, None),
    ]:
        if step is None:  # half the threshold: the first step is halved, the second twice as short
            first = 2 - 0.05 * 0.5 * 2 - 0.05
            expected = first - eta / 2 * 0.5 * first - eta / 2 * d
        else:
            expected = 1.8 - decay * 0.5 * 1.8 - step * d
        assert_same(stableadamw.trajectory(one([2.0, 2.0]), grads, **options, **more), [expected])


def test_lamb_by_hand():
    # ||p|| = 5. sqrt(1 - beta2) = 1/4: corrected r = 1, 1; uncorrected 2, 2 and a scale of (1/4) / (1/2)
    options = {"lr": 0.1, "betas": (0.5, 0.9375), "eps": 0.0, "weight_decay": 0.5}
    p = np.array([3.0, 4.0])
    for more, u, norm, scale in [
        ({}, [2.5, 3.0], 5.0, 1.0),
        ({"max_weight_norm": 2.0}, [2.5, 3.0], 2.0, 1.0),
        ({"max_weight_norm": 6.0}, [2.5, 3.0], 5.0, 1.0),
        ({"bias_correction": "outside"}, [3.5, 4.0], 5.0, 0.5),
        ({"bias_correction": "none"}, [3.5, 4.0], 5.0, 1.0),
        ({"weight_decay": 0.0}, [1.0, 1.0], 5.0, 1.0),
        ({"weight_decay": 0.0, "always_adapt": False}, [1.0, 1.0], 2**0.5, 1.0),
    ]:
        u = np.array(u)
        expected = p - 0.1 * scale * norm / np.sqrt(np.sum(u**2)) * u
        assert_same(lamb.trajectory([p], [one([7.0, 0.1])], **options | more), [expected])
    # eps is added to the corrected root: r = 1/2, 1/2 with gradients 3, 3 and eps 3
    result = lamb.trajectory([p], [one([3.0, 3.0])], lr=0.1, betas=(0.5, 0.9375), eps=3.0, weight_decay=0.5)
    assert_same(result, [p - 0.1 * 5 / (4 + 2.5**2) ** 0.5 * np.array([2.0, 2.5])])
    # the ratio is 1 for a tensor of zeros
    assert_same(lamb.trajectory(one([0.0, 0.0]), [one([7.0, 0.1])], **options), one([-0.1, -0.1]))


def test_lamb_clips_by_the_norm_over_all_tensors():
    options = {"lr": 0.1, "eps": 0.5, "weight_decay": 0.5}
    params, grads = [*one([3.0]), *one([4.0])], [[*one([3.0]), *one([4.0])]]
    small = [[*one([0.6]), *one([0.8])]]
    expected = lamb.trajectory(params, small, **options)
    assert_same(lamb.trajectory(params, grads, max_grad_norm=1.0, **options), expected)
    assert_same(lamb.trajectory(params, small, max_grad_norm=1.5, **options), expected, 0, 0)


def test_lars_by_hand():
    # p = 5e, g = e, with e = (0.6, 0.8): ratio = 0.5 * 5 / (1 + 0.1 * 5) = 5/3, of 1.5e: 2.5e; p = 4.75e
    e = np.array([0.6, 0.8])
    options = {"lr": 0.1, "weight_decay": 0.1, "trust_coefficient": 0.5, "eps": 0.0}
    ratio = 0.5 * 4.75 / 1.475
    for more, expected in [
        ({}, 4.75 - 0.1 * (0.9 * 2.5 + ratio * 1.475)),
        ({"dampening": 0.25}, 4.75 - 0.1 * (0.9 * 2.5 + 0.75 * ratio * 1.475)),
        ({"momentum_after_scaling": False}, 4.75 - 0.1 * ratio * (0.9 * 1.5 + 1.475)),
        ({"momentum": 0.0}, 4.75 - 0.1 * ratio * 1.475),
    ]:
        assert_same(lars.trajectory([5 * e], [[e], [e]], **options, **more), [expected * e])
    assert_same(lars.trajectory([5 * e], [[e]], nesterov=True, **options), [(5 - 0.1 * 1.9 * 2.5) * e])
    assert_same(lars.trajectory([5 * e], [[e]], adapt=[False], **options), [(5 - 0.1 * 1.5) * e])
    assert_same(lars.trajectory([5 * e], [[e]], **options | {"eps": 0.5}), [(5 - 0.1 * 1.25 * 1.5) * e])
    # zero norms: of p, then of g (which leaves the decay)
    for choice, ratio in [("one", 1.0), ("coefficient", 0.5)]:
        result = lars.trajectory([0 * e], [[e]], zero_norm_ratio=choice, **options)
        assert_same(result, [-0.1 * ratio * e])
        result = lars.trajectory([5 * e], [[0 * e]], zero_norm_ratio=choice, **options)
        assert_same(result, [(5 - 0.1 * ratio * 0.5) * e])
    # g at a right angle to p: ||g|| + 0.2 ||p|| = 2, ||g + 0.2 p|| = sqrt(2)
    options["weight_decay"] = 0.2
    across = np.array([-0.8, 0.6])
    for choice, norm in [("sum", 2.0), ("norm", 2**0.5)]:
        result = lars.trajectory([5 * e], [[across]], denominator=choice, **options)
        assert_same(result, [5 * e - 0.1 * 2.5 / norm * (across + e)])


def test_novograd_by_hand():
    # ||g|| = 5, then v = 3/4 * 25 + 1/4 * 1 = 19
    options = {"lr": 0.1, "betas": (0.5, 0.75), "eps": 0.0, "weight_decay": 0.5}
    p, grads = np.array([1.0, 2.0]), [one([3.0, 4.0]), one([0.0, 1.0])]
    for more, first, second, root in [
        ({}, 1.0, 1.0, 19**0.5),
        ({"grad_averaging": True}, 1.0, 0.5, 19**0.5),
        ({"grad_averaging": True, "first_step_averaged": True}, 0.5, 0.5, 19**0.5),
        ({"amsgrad": True}, 1.0, 1.0, 5.0),
    ]:
        m = first * (np.array([0.6, 0.8]) + 0.5 * p)
        expected = p - 0.1 * m
        assert_same(novograd.trajectory([p], grads[:1], **options, **more), [expected])
        m = 0.5 * m + second * (np.array([0.0, 1.0]) / root + 0.5 * expected)
        assert_same(novograd.trajectory([p], grads, **options, **more), [expected - 0.1 * m])
    # eps is added to the root: 3, 4 over 5 + 5
    options = {"lr": 1.0, "eps": 5.0}
    assert_same(novograd.trajectory(one([0.0, 0.0]), grads[:1], **options), one([-0.3, -0.4]))


def drifting(late=None):
    """Gradients with a mean, so that an estimate of the distance has something to find: d grows many times over."""
    params, grads = problem(late=late)
    grads[10][0] = grads[9][0] if late is None else None
    means = [np.asarray(np.random.default_rng(9).normal(size=p.shape)) for p in params]

    def drift(g, mean):
        return None if g is None else np.asarray(mean + 0.3 * g / np.sqrt(np.mean(g**2)))

    return params, [[drift(g, mean) for g, mean in zip(row, means, strict=True)] for row in grads]


ADAPTING = [
    (prodigy, {"betas": (0.8, 0.95), "d0": 1e-3, "d_coef": 2.0}),
    (dadaptadam, {"betas": (0.8, 0.95), "d0": 1e-3}),
    (dadaptadam, {"betas": (0.8, 0.95), "d0": 1e-3, "estimate": "preprint"}),
]


@pytest.mark.parametrize(("paper", "options"), ADAPTING)
def test_distance_estimates_are_sums_over_all_tensors(paper, options):
    """Cutting a vector in two changes nothing, and what the cut off part does moves the rest."""
    params, grads = drifting()
    flat = np.concatenate([p.ravel() for p in params])
    rows = [np.concatenate([g.ravel() for g in row]) for row in grads]
    whole = paper.trajectory([flat], [[row] for row in rows], **options)[0]
    pieces = paper.trajectory(params, grads, **options)
    assert_same([np.concatenate([p.ravel() for p in pieces])], [whole])
    alone = paper.trajectory(params[:1], [row[:1] for row in grads], **options)[0]
    assert np.abs(alone - pieces[0]).max() > 1e-3
    still = paper.trajectory(params, grads, growth_rate=1.0, **options)
    assert np.abs(still[0] - params[0]).max() < 0.1 < np.abs(pieces[0] - params[0]).max()


def test_without_growth_both_are_adam():
    params, grads = drifting()
    options = {"betas": (0.8, 0.95), "eps": 1e-3}
    fixed = {"d0": 0.02, "lr": 0.5}
    no_growth = {"d_coef": 0.0}  # growth_rate = 1 would not do: the first rise from d0 is not limited by it
    expected = adam.trajectory(params, grads, lr=0.01, form="efficient", weight_decay=0.1, **options)
    result = prodigy.trajectory(
        params, grads, use_bias_correction=True, decouple=False, weight_decay=0.1, **options, **fixed, **no_growth
    )
    assert_same(result, expected)
    decoupled = {"weight_decay": 0.1, "decouple": True}
    assert_same(
        dadaptadam.trajectory(params, grads, growth_rate=1.0, **decoupled, **options, **fixed),
        prodigy.trajectory(params, grads, **decoupled, **options, **fixed, **no_growth),
    )


def test_prodigy_by_hand():
    # beta1 = 0, beta3 = 1/2, d0 = 1/2, g = 2 throughout.
    # 1: r = 0; m = 1; v = 3/4; s = 1/2; d stays
    # 2: r = 1/2 * 0 + 1/4 * 2 * (p0 - p); s = 1/4 + 1/2; d = 4 r / s; v = 3/16 + 3/4; the step is still by the old d
    # 3: the first step by the new d: m = 2 d, v = 15/64 + 3/4 * 4 d^2
    options = {"betas": (0.0, 0.25), "d0": 0.5, "d_coef": 4.0, "eps": 1.0}
    grads = [one([2.0])] * 3
    p1 = 1 - 0.5 / (0.75**0.5 + 0.5)
    assert_same(prodigy.trajectory(one([1.0]), grads[:1], **options), one([p1]))
    d = 4 * 0.5 * (1 - p1) / 0.75
    assert d > 0.5
    for times, d_in_eps in [("new", d), ("old", 0.5)]:
        p2 = p1 - 0.5 / (0.9375**0.5 + d_in_eps)
        assert_same(prodigy.trajectory(one([1.0]), grads[:2], eps_times=times, **options), one([p2]))
    p2 = p1 - 0.5 / (0.9375**0.5 + d)
    r = 0.5 * 0.5 * (1 - p1) + d * d * 2 * (1 - p2)
    new_d = max(d, 4 * r / (0.375 + d * d * 2))
    p3 = p2 - d * 2 * d / ((15 / 64 + 3 * d**2) ** 0.5 + new_d)
    assert_same(prodigy.trajectory(one([1.0]), grads, **options), one([p3]))
    # nothing at all moves before there is a gradient, decay included
    still = prodigy.trajectory(one([1.0]), [one([0.0])], weight_decay=0.1, **options)
    assert_same(still, one([1.0]), 0, 0)
    # the decay is by the old d, times lr
    p1 = 1 - 2 * 0.5 * 0.1 - 2 * 0.5 / (0.75**0.5 + 0.5)
    assert_same(prodigy.trajectory(one([1.0]), grads[:1], lr=2.0, weight_decay=0.1, **options), one([p1]))


def test_prodigy_counts_or_forgets_an_absent_tensor():
    # two tensors, the second without a gradient at step 2: its s of 1/2 counts or does not, in d (seen through eps)
    options = {"betas": (0.0, 0.25), "d0": 0.5, "d_coef": 16.0, "eps": 1.0}
    params, grads = [*one([1.0]), *one([1.0])], [[*one([2.0]), *one([2.0])], [*one([2.0]), None]]
    p1 = 1 - 0.5 / (0.75**0.5 + 0.5)
    for absent, s_norm in [("left out", 0.75), ("kept", 1.25)]:
        d = 16 * 0.5 * (1 - p1) / s_norm
        p2 = p1 - 0.5 / (0.9375**0.5 + d)
        assert_same(prodigy.trajectory(params, grads, absent=absent, **options), [*one([p2]), *one([p1])])


def test_dadaptadam_counts_or_forgets_an_absent_tensor():
    # as in the next test; the second tensor has no gradient at step 2, where its s is 2 (preprint, at twice the lr: 6)
    options = {"lr": 4.0, "betas": (0.0, 0.25), "d0": 0.5, "eps": 1.0}
    params, grads = [*one([1.0]), *one([1.0])], [[*one([2.0]), *one([2.0])], [*one([2.0]), None], [*one([2.0]), None]]
    root1, root2, root3 = 3**0.5 + 1, 3.75**0.5 + 1, 3.9375**0.5 + 1
    for absent, s_norm in [("left out", 3.0), ("kept", 5.0)]:
        d = max(0.5, 4 / root1 / (0.5 * s_norm))
        p3 = 1 - 4 / root1 - 4 / root2 - 8 * d / root3
        result = dadaptadam.trajectory(params, grads, absent=absent, **options)
        assert_same(result, [*one([p3]), *one([1 - 4 / root1])])
    gsq = 0.25 * 2 * 48 / root1 + 48 / root2
    for absent, s_norm, other in [("left out", 7.5, 0.0), ("kept", 13.5, 36 / root1)]:
        d = max(0.5, ((7.5**2 / root2 + other) / 0.75 - gsq) / s_norm)
        p3 = 1 - 8 / root1 - 8 / root2 - 16 * d / root3
        result = dadaptadam.trajectory(params, grads, absent=absent, estimate="preprint", **options | {"lr": 8.0})
        assert_same(result, [*one([p3]), *one([1 - 8 / root1])])


def test_dadaptadam_by_hand():
    # beta1 = 0, q = 1/2, lr * d0 = 2, g = 2, eps = 1 throughout.
    # 1: s = 0 before, so d stays; m = 4, v = 3, s = 2.  2: r = 1/2 * 2 * 2 * 2 / (sqrt(v) + 1), s = 3, d = r / (3 / 2)
    # 3: m = lr * d * 2
    options = {"lr": 4.0, "betas": (0.0, 0.25), "d0": 0.5, "eps": 1.0}
    grads = [one([2.0])] * 3
    v1, v2 = 3.0, 3.75
    v3 = 0.25 * v2 + 3
    p1 = 1 - 4 / (v1**0.5 + 1)
    p2 = p1 - 4 / (v2**0.5 + 1)
    assert_same(dadaptadam.trajectory(one([1.0]), grads[:1], **options), one([p1]))
    assert_same(dadaptadam.trajectory(one([1.0]), grads[:2], **options), one([p2]))
    for weigh_with, v in [("old", v1), ("new", v2)]:
        d = 4 / (v**0.5 + 1) / 1.5
        assert d > 0.5
        p3 = p2 - 4 * d * 2 / (v3**0.5 + 1)
        assert_same(dadaptadam.trajectory(one([1.0]), grads, weigh_with=weigh_with, **options), one([p3]))
    # growth held at 1.5 times
    p3 = p2 - 4 * 0.75 * 2 / (v3**0.5 + 1)
    assert_same(dadaptadam.trajectory(one([1.0]), grads, growth_rate=1.5, **options), one([p3]))
    # preprint, beta2 for q, at twice the lr: s = 6, 7.5; gsq = 3/4 * 16 * 4 / root, then a quarter of it and as much
    # again
    gsq = 0.25 * 48 / (v1**0.5 + 1) + 48 / (v2**0.5 + 1)
    d = (7.5**2 / (v2**0.5 + 1) / 0.75 - gsq) / 7.5
    assert d > 0.5
    p3 = 1 - 8 / (v1**0.5 + 1) - 8 / (v2**0.5 + 1) - 8 * d * 2 / (v3**0.5 + 1)
    preprint = options | {"lr": 8.0, "estimate": "preprint"}
    assert_same(dadaptadam.trajectory(one([1.0]), grads, **preprint), one([p3]))
    # coupled: g = 1.8 + 0.2 * 1; decoupled: 2 * 0.1 * 1 taken off first
    assert_same(dadaptadam.trajectory(one([1.0]), [one([1.8])], weight_decay=0.2, **options), one([p1]))
    result = dadaptadam.trajectory(one([1.0]), grads[:1], weight_decay=0.1, decouple=True, **options)
    assert_same(result, one([p1 - 0.2]))


def transposed(arrays):
    return [None if a is None else a.T for a in arrays]


def rotation(n, seed):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))[0]


@pytest.mark.parametrize(
    ("paper", "options"),
    [
        (adafactor, {"lr": 0.3, "eps": (1e-2, 0.5), "weight_decay": 0.1}),
        (adafactor, {"variant": "shazeer", "eps": (1e-2, 0.5), "weight_decay": 0.1, "beta1": 0.8}),
        (muon, {"lr": 0.05, "momentum": 0.8, "adjust_lr_fn": "match_rms_adamw"}),
        (shampoo, {"lr": 0.05, "eps": 1e-2, "momentum": 0.5, "precondition_every": 3, "grafting": "adam"}),
    ],
)
def test_tall_is_wide_transposed(paper, options):
    params, grads = problem([(5, 3), (3, 5), (2, 7)], late=1)
    there = paper.trajectory(params, grads, **options)
    back = paper.trajectory(transposed(params), [transposed(row) for row in grads], **options)
    assert_same(transposed(back), there, rtol=1e-10, atol=1e-12)  # eigh and the quintic round differently transposed


@pytest.mark.parametrize(
    ("paper", "options"),
    [
        (muon, {"lr": 0.05, "momentum": 0.8}),
        (shampoo, {"lr": 0.05, "eps": 1e-2, "beta2": 0.9, "eps_at": "root", "momentum": 0.5, "grafting": "sgd"}),
        (soap, ADAM | {"precondition_frequency": 3}),
        (soap, ADAM | {"precondition_frequency": 3, "first_step": "use", "form": "algorithm1"}),
    ],
)
def test_turning_the_space_turns_the_path(paper, options):
    """What is done in eigenbases does not know the coordinates. Square: elsewhere SOAP's first basis is not
    determined."""
    params, grads = problem([(4, 4)], late=None)
    grads[10][0] = grads[9][0] + 1
    left, right = rotation(4, 1), rotation(4, 2)
    there = [left @ p @ right.T for p in paper.trajectory(params, grads, **options)]
    turned = [left @ p @ right.T for p in params], [[left @ g @ right.T for g in row] for row in grads]
    # 1e-9: the turn itself rounds, and roots of small eigenvalues multiply that
    assert_same(paper.trajectory(*turned, **options), there, rtol=1e-9, atol=1e-11)


def test_adafactor_by_hand():
    # g^2 has row means 5, 20 and column means 5, 20: V = R C / 12.5; u = g / sqrt(V) has squares 0.5, 2, 2, 0.5 / ... :
    g = np.array([[1.0, 3.0], [2.0, 6.0]])  # rank one, so that V = g^2 exactly and u = 1: no clipping
    p = np.full((2, 2), 2.0)
    # relative step: 2 * min(1e-2, 1)
    paper = {"variant": "shazeer", "eps": (0.0, 1e-3)}
    assert_same(adafactor.trajectory([p], [[g]], **paper), [p - 0.02])
    assert_same(adafactor.trajectory([p], [[g]], warmup_init=True, **paper), [p - 2e-6])
    assert_same(adafactor.trajectory([p], [[g]], lr=0.5, **paper), [p - 1.0])
    assert_same(adafactor.trajectory([p], [[g]], lr=0.5, scale_parameter=False, **paper), [p - 0.5])
    assert_same(adafactor.trajectory([0 * p], [[g]], lr=0.5, **paper), [0 * p - 0.5e-3])
    # decay by alpha = 1, and by torch's lr
    assert_same(adafactor.trajectory([p], [[g]], lr=0.5, weight_decay=0.1, **paper), [p - 0.2 - 1.0])
    assert_same(adafactor.trajectory([p], [[g]], lr=0.5, weight_decay=0.1), [p - 0.1 - 1.0])
    # the clipping: eps1 of 3 under g^2 = 1 gives u = 1/2, left alone; halved at d = 1/4. max, where min is the known
    # fault
    v = np.array([1.0, -1.0])
    halves = {"variant": "shazeer", "eps": (3.0, 1e-3), "lr": 1.0, "scale_parameter": False}
    assert_same(adafactor.trajectory([0 * v], [[v]], **halves), [-0.5 * v])
    assert_same(adafactor.trajectory([0 * v], [[v]], d=0.25, **halves), [-0.25 * v])
    # the second moment at t = 2: b2 = 1 - 2^-0.8, so V = b2 + (1 - b2) * 16 and u = 4 / sqrt(V), clipped at d = 2
    mix = 2**-0.8
    u = 4 / (1 - mix + 16 * mix) ** 0.5
    result = adafactor.trajectory([0 * v], [[v], [4 * v]], d=2.0, **halves | {"eps": (0.0, 1e-3)})
    assert 1 < u < 2
    assert_same(result, [-v - u * v])
    # momentum of the scaled step: 1/2 * 1, then 1/2 of that and half of the new; alpha doubles between them
    for choice, second in [("step", 0.25 * 0.02 + 0.5 * 0.02 * 0.995), ("direction", 0.02 * 0.995 * 0.75)]:
        result = adafactor.trajectory([p], [[g], [g]], beta1=0.5, momentum_on=choice, **paper)
        assert_same(result, [p - 0.01 - second])


def test_adafactor_relative_step_falls_after_ten_thousand():
    grads = [one([1.0])] * 12_000  # a constant gradient: every step is rho
    result = adafactor.trajectory(one([0.0]), grads, variant="shazeer", scale_parameter=False)
    expected = -sum(min(1e-2, t**-0.5) for t in range(1, 12_001))
    assert_same(result, one([expected]), rtol=1e-11)  # twelve thousand roundings


def test_adafactor_factors_what_it_should():
    rng = np.random.default_rng(3)
    p, grads = rng.normal(size=(3, 4, 5)), [[rng.normal(size=(3, 4, 5))] for _ in range(4)]
    options = {"variant": "shazeer", "lr": 0.1, "scale_parameter": False, "d": 1e9, "eps": (1e-3, 1e-3)}
    # last two: each of the three matrices on its own;  matrices: nothing is factored, as if the tensor were a vector
    each = [adafactor.trajectory([p[k]], [[row[0][k]] for row in grads], **options)[0] for k in range(3)]
    assert_same(adafactor.trajectory([p], grads, **options), [np.stack(each)])
    vector = adafactor.trajectory([p.ravel()], [[row[0].ravel()] for row in grads], **options)
    assert_same(adafactor.trajectory([p], grads, factor="matrices", **options), [vector[0].reshape(p.shape)])


def test_muon_maps_singular_values():
    # the first direction is U f(f(f(f(f(S / ||S||))))) V^T
    rng = np.random.default_rng(4)
    for shape in [(5, 3), (3, 5), (4, 4)]:
        g = rng.normal(size=shape)
        u, s, vt = np.linalg.svd(g, full_matrices=False)
        s = s / np.sqrt(np.sum(s**2))
        for _ in range(5):
            s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
        result = muon.trajectory([0 * g], [[g]], lr=0.1, adjust_lr_fn="none")
        assert_same(result, [-0.1 * (u * s) @ vt], rtol=1e-11)
        more_rows = max(1, shape[0] / shape[1]) ** 0.5
        assert_same(muon.trajectory([0 * g], [[g]], lr=0.1), [-0.1 * more_rows * (u * s) @ vt], rtol=1e-11)
        longer = 0.2 * max(shape) ** 0.5
        result = muon.trajectory([0 * g], [[g]], lr=0.1, adjust_lr_fn="match_rms_adamw")
        assert_same(result, [-0.1 * longer * (u * s) @ vt], rtol=1e-11)


def test_muon_by_hand():
    # a 1 x 1 matrix: the sign, mapped; identity coefficients leave it at 1. Decay by the unadjusted lr
    options = {"lr": 0.1, "momentum": 0.5, "weight_decay": 0.5, "ns_coefficients": (1.0, 0.0, 0.0)}
    p, g = np.array([[2.0]]), np.array([[3.0]])
    assert_same(muon.trajectory([p], [[g]], **options), [p - 0.1 - 0.1])
    # Nesterov turns one step earlier: b = 1.5, then 0.75 - 1 / 2 * 1 > 0, but 1/2 * -1 + 1/2 * 0.25 < 0
    for nesterov, second in [(True, 1.71 + 0.1), (False, 1.71 - 0.1)]:
        result = muon.trajectory([p], [[g], [-g / 3]], nesterov=nesterov, **options)
        assert_same(result, [np.array([[second]])])
    # missing: left alone, or decayed and moved on by what is left of the momentum
    assert_same(muon.trajectory([p], [[g], [None]], **options), [np.array([[1.8]])])
    result = muon.trajectory([p], [[g], [None]], missing="zeros", **options)
    assert_same(result, [np.array([[1.71 - 0.1]])])
    # eps: u = 3/2 * 1.5; max(2.25, 4.5) halves it, 2.25 + 4.5 makes it a third
    for norm, part in [("max", 1 / 2), ("add", 1 / 3)]:
        result = muon.trajectory([p], [[g]], norm=norm, **options | {"eps": 4.5})
        assert_same(result, [p - 0.1 - 0.1 * part])
    # a kernel is the matrix (2, 12); its sides for the adjustment
    rng = np.random.default_rng(5)
    kernel = rng.normal(size=(8, 1, 2, 3))
    flat = muon.trajectory([0 * kernel.reshape(8, 6)], [[kernel.reshape(8, 6)]], adjust_lr_fn="none")[0]
    for sides, ratio in [("matrix", 8 / 6), ("last two", 1.0), ("first two", 8.0)]:
        result = muon.trajectory([0 * kernel], [[kernel]], sides=sides)
        assert_same(result, [ratio**0.5 * flat.reshape(kernel.shape)])
    with pytest.raises(ValueError):
        muon.trajectory([np.zeros(3)], [])


def test_shampoo_by_hand():
    # diagonal: H = 16, 1 on both sides, to the -1/4: 4 / (2 * 2) = 1. Twice: 4 / sqrt(32). EMA: 4 / sqrt(16 / 4)
    g, p = np.diag([4.0, 1.0]), np.zeros((2, 2))
    tiny = {"lr": 0.1, "eps": 1e-14}
    loose = {"rtol": 1e-12, "atol": 1e-13}
    assert_same(shampoo.trajectory([p], [[g]], **tiny), [-0.1 * np.eye(2)], **loose)
    assert_same(
        shampoo.trajectory([p], [[g]], bias_correction=True, **tiny), [-0.1 * np.eye(2)], **loose
    )  # a sum has none
    twice = -0.1 * (1 + 0.5**0.5)
    assert_same(shampoo.trajectory([p], [[g], [g]], **tiny), [twice * np.eye(2)], **loose)
    assert_same(shampoo.trajectory([p], [[g], [g]], precondition_every=2, **tiny), [-0.2 * np.eye(2)], **loose)
    averaged = {"beta2": 0.75, "eps_at": "root"}
    assert_same(shampoo.trajectory([p], [[g]], **averaged, **tiny), [-0.2 * np.eye(2)], **loose)
    assert_same(shampoo.trajectory([p], [[g]], bias_correction=True, **averaged, **tiny), [-0.1 * np.eye(2)], **loose)
    # L^(-1/2) g R^(-1/2) = 4 / 16
    result = shampoo.trajectory([p], [[g]], exponent=0.5, **tiny)
    assert_same(result, [-0.1 * np.diag([0.25, 1.0])], **loose)
    # eps: (16 + 9)^(-1/2), (1 + 9)^(-1/2); at the second step it is there once
    for steps, h in [(1, [25.0, 10.0]), (2, [41.0, 11.0])]:
        before = shampoo.trajectory([p], [[g]] * (steps - 1), lr=0.1, eps=9.0)[0]
        after = shampoo.trajectory([p], [[g]] * steps, lr=0.1, eps=9.0)[0]
        assert_same([before - after], [0.1 * np.diag([4.0, 1.0]) / np.sqrt(h)])
    # a vector: g / sqrt(||g||^2 + eps); a scalar likewise; a tensor of rank one: each of three H is ||g||^2 to the -1/6
    v = np.array([3.0, 4.0])
    assert_same(shampoo.trajectory([0 * v], [[v]], lr=0.1, eps=11.0), [-0.1 * v / 6])
    assert_same(shampoo.trajectory(one(0.0), [one(3.0)], lr=0.1, eps=7.0), one(-0.1 * 3 / 4))
    cube = np.einsum("i,j,k->ijk", v, v, [1.0, 2.0, 2.0])  # norm 75
    assert_same(
        shampoo.trajectory([0 * cube], [[cube]], lr=0.1, eps=1e-3), [-0.1 * cube / (75**2 + 1e-3) ** 0.5], rtol=1e-9
    )
    # momentum: d, then d / 2 + its like; beta1: the corrected mean of 4 and 0 at the second step is 4/3
    result = shampoo.trajectory(one(0.0), [one(3.0), one(0.0)], lr=0.1, eps=7.0, momentum=0.5)
    assert_same(result, one(-0.1 * (0.75 + 0.375)))
    result = shampoo.trajectory(one(0.0), [one(3.0), one(0.0)], lr=0.1, eps=7.0, beta1=0.5)
    assert_same(result, one(-0.1 * (0.75 + 1.0 / 4)))
    result = shampoo.trajectory(one(2.0), [one(3.0)], lr=0.1, eps=7.0, weight_decay=0.5)
    assert_same(result, one(1.9 - 0.075))
    with pytest.raises(ValueError):
        shampoo.trajectory([p], [[np.diag([1.0, 0.0])]], eps=0.0)


def test_shampoo_grafting_takes_only_the_length():
    params, grads = problem([(4, 3)], steps=2, late=None)
    options = {"lr": 0.1, "eps": 1e-2}
    plain = params[0] - shampoo.trajectory(params, grads[:1], **options)[0]
    g = grads[0][0]
    for grafting, length in [
        ("sgd", 0.1 * np.sqrt(np.sum(g**2))),
        ("adagrad", 0.1 * 12**0.5),  # the first direction of Adagrad and of Adam is the sign, 12 times
        ("adam", 0.1 * 12**0.5),
    ]:
        step = params[0] - shampoo.trajectory(params, grads[:1], grafting=grafting, grafting_eps=0.0, **options)[0]
        assert_same([step], [plain * length / np.sqrt(np.sum(plain**2))])
    # grafting_eps: three times |g| to it leaves a quarter
    result = shampoo.trajectory(one(0.0), [one(3.0)], lr=0.1, eps=7.0, grafting="adagrad", grafting_eps=9.0)
    assert_same(result, one(-0.025))
    result = shampoo.trajectory(one(0.0), [one(3.0)], lr=0.1, eps=7.0, grafting="adam", grafting_eps=9.0)
    assert_same(result, one(-0.025))
    # second step: the accumulators differ
    plain = shampoo.trajectory(params, grads[:1], **options)[0] - shampoo.trajectory(params, grads, **options)[0]
    h = grads[1][0]
    for grafting, other in [
        ("adagrad", h / np.sqrt(g**2 + h**2)),
        ("adam", h / np.sqrt((0.25 * g**2 + 0.5 * h**2) / 0.75)),
    ]:
        more = {"grafting": grafting, "grafting_eps": 0.0, "grafting_beta2": 0.5}
        first = shampoo.trajectory(params, grads[:1], **more, **options)[0]
        step = first - shampoo.trajectory(params, grads, **more, **options)[0]
        length = 0.1 * np.sqrt(np.sum(other**2))
        assert_same([step], [plain * length / np.sqrt(np.sum(plain**2))], rtol=1e-11)


def test_soap_without_a_basis_is_adam():
    """With the identity for a basis that is never refreshed, or with no basis at all; the first gradient only starts
    it."""
    params, grads = problem()
    options = ADAM | {"precondition_frequency": 10**6}
    rest = [list(row) for row in grads]
    for i in range(len(params)):
        rest[next(t for t, row in enumerate(grads) if row[i] is not None)][i] = None
    expected = adam.trajectory(params, rest, form="efficient", decoupled_weight_decay=True, **ADAM)
    assert_same(soap.trajectory(params, grads, max_precond_dim=0, **options), expected)
    identity = [[np.eye(n) for n in p.shape] if p.ndim > 1 else None for p in params]
    assert_same(soap.trajectory(params, grads, basis=identity, **options), expected)
    expected = adamw.trajectory(params, grads, **ADAM)
    more = {"first_step": "use", "form": "algorithm1", "basis": identity}
    assert_same(soap.trajectory(params, grads, **more, **options), expected)
    # a fixed basis Q: AdamW on Q^T W, turned back
    p, rows = params[-1:], [row[-1:] for row in grads]
    left, right = rotation(4, 6), rotation(4, 7)
    expected = adamw.trajectory([left.T @ p[0] @ right], [[left.T @ row[0] @ right] for row in rows], **ADAM)[0]
    result = soap.trajectory(p, rows, basis=[[left, right]], first_step="use", form="algorithm1", **options)
    assert_same(result, [left @ expected @ right.T])


def test_soap_by_hand():
    # first gradient skipped; then, in a basis that is the identity up to order, the sign of a diagonal
    g = np.diag([3.0, 1.0])
    options = {"lr": 0.1, "weight_decay": 0.5, "eps": 1e-300}
    p = np.eye(2)
    assert_same(soap.trajectory([p], [[g]], **options), [p], 0, 0)
    assert_same(soap.trajectory([p], [[g], [2 * g]], **options), [(0.95 - 0.1) * p])
    assert_same(soap.trajectory([p], [[g]], first_step="use", **options), [(0.95 - 0.1) * p])
    assert_same(soap.trajectory([p], [[g]], first_step="use", decay_after=True, **options), [0.9 * 0.95 * p])
    # uncorrected: m = 0.05 g over sqrt(0.05) g
    result = soap.trajectory([p], [[g]], first_step="use", correct_bias=False, **options)
    assert_same(result, [(0.95 - 0.1 * 0.05**0.5) * p])
    result = soap.trajectory([p], [[g]], first_step="use", correct_bias=False, form="algorithm1", **options)
    assert_same(result, [(0.95 - 0.1 * 0.05**0.5) * p])
    # a first gradient of rank one, u v^T: one direction of the basis; the step is u v^T itself at lr, whatever its size
    u, v = np.array([0.6, 0.8]), np.array([0.8, -0.6])
    result = soap.trajectory([0 * p], [[7 * np.outer(u, v)]], first_step="use", lr=0.1, weight_decay=0.0, eps=0.5)
    assert_same(result, [-0.1 * np.outer(u, v) * 7 / (7 + 0.5 / 0.05**0.5)])
    # a vector is Adam's, or with precondition_1d has a basis: then all of its first step is along it
    w = np.array([3.0, 4.0])
    options = {"lr": 0.1, "weight_decay": 0.0, "eps": 1e-300, "first_step": "use"}
    assert_same(soap.trajectory([0 * w], [[w]], **options), [np.array([-0.1, -0.1])])
    result = soap.trajectory([0 * w], [[w]], precondition_1d=True, **options | {"eps": 0.5})
    assert_same(result, [-0.1 * w / (5 + 0.5 / 0.05**0.5)])


def test_soap_refreshes_its_basis_and_reorders_the_second_moment():
    # the second gradient is diagonal with the larger entry elsewhere; L and R turn over, so the columns change
    # places, v with them: refreshing every step or never is then the same path
    grads = [[np.diag([3.0, 1.0])], [np.diag([1.0, 8.0])], [np.diag([2.0, -5.0])], [np.diag([4.0, 1.0])]]
    options = ADAM | {"shampoo_beta": 0.5}
    every = soap.trajectory([np.eye(2)], grads, precondition_frequency=1, **options)
    never = soap.trajectory([np.eye(2)], grads, precondition_frequency=100, **options)
    assert_same(every, never)
    # where the eigenvectors do move, it matters how often
    params, grads = problem([(4, 4)], late=None, steps=9)
    every = soap.trajectory(params, grads, precondition_frequency=1, **options)[0]
    never = soap.trajectory(params, grads, precondition_frequency=100, **options)[0]
    assert np.abs(every - never).max() > 1e-3
