"""The transcriptions of methods around another optimizer, worked by hand."""

import numpy as np
import pytest

from . import adam, asam, lookahead, sam, sgd, swats


def quadratic(curvature):
    """Gradient of sum_i curvature_i / 2 * ||w_i||^2."""
    return lambda params, step: [c * p for c, p in zip(curvature, params, strict=True)]


def random_problem(steps=12, seed=3):
    rng = np.random.default_rng(seed)
    params = [np.asarray(rng.normal(size=shape)) for shape in ((3, 2), (4,))]
    return params, [[np.asarray(rng.normal(size=p.shape)) for p in params] for _ in range(steps)]


def test_sam_by_hand():
    # g = (3, 4) in two tensors, norm 5; e = rho * (0.6, 0.8); the gradient there is 2 * (1.5 + 0.3), 4 * (1 + 0.4)
    params = [np.array([1.5]), np.array([1.0])]
    (a, b) = sam.trajectory(params, quadratic((2.0, 4.0)), 1, rho=0.5, lr=0.1, weight_decay=0.2)
    assert a.item() == pytest.approx(1.5 - 0.1 * (2 * 1.8 + 0.2 * 1.5))
    assert b.item() == pytest.approx(1.0 - 0.1 * (4 * 1.4 + 0.2 * 1.0))
    # in the loss the decay is curvature
    inside = sam.trajectory(params, quadratic((2.0, 4.0)), 5, rho=0.5, lr=0.1, weight_decay=0.2, decay_in_the_loss=True)
    curved = sam.trajectory(params, quadratic((2.2, 4.2)), 5, rho=0.5, lr=0.1)
    np.testing.assert_allclose(np.concatenate(inside), np.concatenate(curved), rtol=1e-12)
    # going up a hill is going down a valley
    up = sam.trajectory(params, quadratic((-2.0, -4.0)), 5, rho=0.5, lr=0.1, momentum=0.7, maximize=True)
    down = sam.trajectory(params, quadratic((2.0, 4.0)), 5, rho=0.5, lr=0.1, momentum=0.7)
    np.testing.assert_allclose(np.concatenate(up), np.concatenate(down), rtol=1e-12)


@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_sam_that_goes_nowhere_is_sgd(momentum):
    params, grads = random_problem()
    options = {"lr": 0.1, "momentum": momentum, "weight_decay": 0.2}
    for ours in (
        sam.trajectory(params, lambda p, step: grads[step], 12, rho=0.0, **options),
        asam.trajectory(params, lambda p, step: grads[step], 12, rho=0.0, weights=[True, False], **options),
    ):
        for got, want in zip(ours, sgd.trajectory(params, grads, **options), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-12)


def test_asam_by_hand():
    # a weight of -2 with eta 1 has T = 3, a bias T = 1; g = (-4, 4), T g = (-12, 4), norm sqrt(160)
    params = [np.array([-2.0]), np.array([1.0])]
    (a, b) = asam.trajectory(params, quadratic((2.0, 4.0)), 1, weights=[True, False], rho=0.5, eta=1.0, lr=0.1)
    norm = np.sqrt(160)
    assert a.item() == pytest.approx(-2 - 0.1 * 2 * (-2 + 0.5 * 9 * -4 / norm))
    assert b.item() == pytest.approx(1 - 0.1 * 4 * (1 + 0.5 * 4 / norm))


def test_asam_without_a_scale_is_sam():
    params, _ = random_problem()
    gradient = quadratic((2.0, 4.0))
    options = {"rho": 0.3, "lr": 0.1, "momentum": 0.5}
    plain = sam.trajectory(params, gradient, 6, **options)
    for got, want in zip(
        asam.trajectory(params, gradient, 6, weights=[False, False], eta=9.0, **options), plain, strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=1e-12)


def test_lookahead_by_hand():
    # constant gradient 1, lr 1, k 3, alpha 0.5: 3 forward, 1.5 back
    grads = [[np.array([1.0])] for _ in range(8)]
    places = [lookahead.trajectory([np.array([0.0])], grads[:n], k=3, alpha=0.5, lr=1.0)[0].item() for n in range(1, 9)]
    assert places == [-1, -2, -1.5, -2.5, -3.5, -3, -4, -5]
    slow = [
        lookahead.trajectory([np.array([0.0])], grads[:n], k=3, alpha=0.5, lr=1.0, point="slow")[0].item()
        for n in range(1, 9)
    ]
    assert slow == [0, 0, -1.5, -1.5, -1.5, -3, -3, -3]


def test_lookahead_and_momentum_by_hand():
    # buffers of a constant gradient 1 with momentum 0.5: 1, 1.5, and at k = 2 a new cycle
    grads = [[np.array([1.0])] for _ in range(5)]

    def last_step(pullback, n):
        before, after = (
            lookahead.trajectory([np.array([0.0])], grads[:m], k=2, alpha=0.5, lr=1.0, momentum=0.5, pullback=pullback)
            for m in (n - 1, n)
        )
        return before[0].item() - after[0].item()

    assert last_step("none", 3) == 0.5 * 1.5 + 1
    assert last_step("reset", 3) == 1
    assert last_step("pullback", 3) == 0.5 * 0.75 + 1  # 0.5 * 1.5 + 0.5 * 0
    after_two_cycles = 0.5 * (0.5 * 1.375 + 1) + 0.5 * 0.75
    assert last_step("pullback", 5) == 0.5 * after_two_cycles + 1


def test_lookahead_all_the_way_is_sgd():
    params, grads = random_problem()
    options = {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.2}
    plain = sgd.trajectory(params, grads, **options)
    for got, want in zip(lookahead.trajectory(params, grads, k=5, alpha=1.0, **options), plain, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12)


def test_swats_by_hand():
    # gradients of constant size c: Adam's steps are lr * sign, so gamma = n lr^2 / (n lr c) = lr / c, from the first
    # step on, and at k = 2 it has settled
    params = [np.zeros(3)]
    grads = [[np.array([2.0, -2.0, 2.0])] for _ in range(4)]
    options = {"lr": 0.5, "betas": (0.75, 0.5), "eps": 0.0, "tolerance": 1e-12}
    number, rate = swats.switch(params, grads, **options)
    assert number == 2
    assert rate == pytest.approx(0.25)
    # two steps of 0.5; then v = 2 and 0.75 * 2 + 2 at a rate of 0.25 * 0.25
    (w,) = swats.trajectory(params, grads, **options)
    np.testing.assert_allclose(w, -np.sign(grads[0][0]) * (1.0 + 0.0625 * (2 + 3.5)), rtol=1e-12)


def test_swats_that_never_settles_is_adam():
    params, grads = random_problem()
    options = {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-3}
    assert swats.switch(params, grads, tolerance=0.0, weight_decay=0.1, **options) is None
    ours = swats.trajectory(params, grads, tolerance=0.0, weight_decay=0.1, **options)
    for got, want in zip(ours, adam.trajectory(params, grads, weight_decay=0.1, **options), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12)
    # the paper's place of eps is another method
    paper = swats.trajectory(params, grads, tolerance=0.0, weight_decay=0.1, eps_at="paper", **options)
    assert not np.allclose(paper[0], ours[0], rtol=1e-6)
