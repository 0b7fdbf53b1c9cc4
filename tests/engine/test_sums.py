"""Two passes: what LAMB and LARS leave out, and the caution that every elementwise rule can have."""

import pytest
import torch

import stepwell
from stepwell import UsageError
from stepwell.optimizers import find
from tests.papers.cautious import cautious


@pytest.mark.parametrize("backend", ["eager", "cpu"])
@pytest.mark.parametrize("name", ["LAMB", "LARS"])
def test_vectors_get_no_ratio_and_no_decay(name: str, backend: str) -> None:
    torch.manual_seed(0)
    matrix, vector = torch.randn(8, 5, requires_grad=True), torch.randn(8, requires_grad=True)
    before = vector.detach().clone()
    optimizer = getattr(stepwell, name)([matrix, vector], lr=0.1, weight_decay=0.5, backend=backend)
    for p in (matrix, vector):
        p.grad = torch.randn_like(p)
    optimizer.step()
    # the first step of Adam is lr * sign(g), that of momentum SGD lr * g
    step = vector.grad.sign() if name == "LAMB" else vector.grad
    torch.testing.assert_close(vector.detach(), before - 0.1 * step, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", ["eager", "cpu"])
@pytest.mark.parametrize("name", ["LAMB", "LARS"])
def test_the_scale_of_a_gradient_does_not_matter(name: str, backend: str) -> None:
    torch.manual_seed(0)
    start, gradients, ends = torch.randn(40, 30), torch.randn(5, 40, 30), []
    for scale in (1.0, 1024.0):
        p = start.clone().requires_grad_()
        optimizer = getattr(stepwell, name)([p], lr=0.5, eps=0.0, backend=backend)
        for g in gradients:
            p.grad = g * scale
            optimizer.step()
        ends.append(p.detach())
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-6)
    assert not torch.equal(ends[0], start)


@pytest.mark.parametrize("backend", ["eager", "cpu"])
def test_cautious_leaves_out_what_opposes_its_gradient(backend: str) -> None:
    torch.manual_seed(0)
    size, lr = 3000, 0.1
    p = torch.randn(size, dtype=torch.float64, requires_grad=True)
    twin = p.detach().clone().requires_grad_()
    optimizer = stepwell.Lion([p], lr=lr, cautious=True, backend=backend)
    plain = stepwell.Lion([twin], lr=lr, backend="eager")
    for _ in range(5):
        gradient = torch.randn(size, dtype=torch.float64)
        before = twin.detach().clone()
        p.grad, twin.grad = gradient, gradient
        optimizer.step()
        plain.step()
        direction = ((before - twin.detach()) / lr).numpy()
        with torch.no_grad():
            twin.copy_(before - lr * torch.from_numpy(cautious(direction, gradient.numpy(), scaling="clamped_mean")))
    torch.testing.assert_close(p, twin, rtol=1e-10, atol=1e-12)


def test_cautious_is_refused_where_it_cannot_be() -> None:
    with pytest.raises(UsageError, match="cautious=True is not available"):
        stepwell.LAMB([torch.zeros(3, requires_grad=True)], cautious=True)


@pytest.mark.parametrize("name", ["Prodigy", "DAdaptAdam"])
def test_sums_over_the_run_do_not_depend_on_how_it_is_divided(name: str) -> None:
    """One tensor, and the same numbers in three: elements are updated alike, so the rate must be the same."""

    def rates(sizes: list[int]) -> tuple[list[float], torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        whole = torch.randn(90, generator=generator, dtype=torch.float64)
        parts = [torch.nn.Parameter(part.clone()) for part in whole.split(sizes)]
        optimizer = find(name)(parts, weight_decay=0.0)
        seen = []
        for _ in range(12):
            gradient = torch.randn(90, generator=generator, dtype=torch.float64) + 0.3
            for part, mine in zip(parts, gradient.split(sizes), strict=True):
                part.grad = mine.clone()
            optimizer.step()
            seen.append(float(optimizer.state[parts[0]]["d"]))
        return seen, torch.cat([part.detach() for part in parts])

    one, weights = rates([90])
    three, others = rates([50, 10, 30])
    assert one[-1] > one[0]
    assert three == pytest.approx(one, rel=1e-12)
    torch.testing.assert_close(others, weights, rtol=1e-10, atol=1e-12)
