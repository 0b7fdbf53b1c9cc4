"""What a plan is made of, when it is made anew, and that groups do not multiply launches."""

import collections
import io
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import stepwell
from stepwell import UsageError
from stepwell.engine.backends.cpu import divide


def weights(count: int, size: int = 5) -> list[torch.Tensor]:
    result = [torch.randn(size, requires_grad=True) for _ in range(count)]
    for p in result:
        p.grad = torch.randn(size)
    return result


@given(
    sizes=st.lists(st.integers(1, 5000), min_size=1, max_size=40),
    threads=st.integers(1, 9),
    data=st.data(),
)
def test_pieces_cover_every_active_element_once(sizes: list[int], threads: int, data: st.DataObject) -> None:
    active = np.array(data.draw(st.lists(st.booleans(), min_size=len(sizes), max_size=len(sizes))))
    pieces, spans = divide(np.array(sizes), active, np.arange(len(sizes)), threads)
    covered = [np.zeros(size, dtype=int) for size in sizes]
    for tensor, first, count, group, first_of_gradient, place, *before in pieces.tolist():
        covered[tensor][first : first + count] += 1
        assert (group, first_of_gradient, place) == (tensor, first, first)
        assert before == [first // 256, first // 128, first // 2]
        assert first % 256 == 0
    for times, is_active in zip(covered, active, strict=True):
        assert (times == int(is_active)).all()
    assert spans[0] == 0
    assert spans[-1] == len(pieces)
    assert (np.diff(spans) >= 0).all()
    assert len(spans) == threads + 1


def test_threads_get_equal_work() -> None:
    pieces, spans = divide(np.array([1_000_000, 10, 50_000]), np.ones(3, bool), np.zeros(3, int), 4)
    work = [pieces[a:b, 2].sum() for a, b in pairwise(spans)]
    assert max(work) < 1.02 * min(work)


def test_groups_with_different_numbers_share_one_launch() -> None:
    params = weights(465)
    one_each = [{"params": [p], "lr": 1e-3 * (i + 1), "weight_decay": 0.1 * (i % 2)} for i, p in enumerate(params)]
    optimizer = stepwell.AdamW(one_each)
    optimizer.step()
    assert len(optimizer._plan.launches) == 1
    flagged = stepwell.AdamW([*({"params": [p]} for p in weights(3)), {"params": weights(2), "amsgrad": True}])
    flagged.step()
    assert len(flagged._plan.launches) == 2


@pytest.mark.parametrize("change", ["lr", "grad", "data", "flag", "state", "group"])
def test_a_plan_is_kept_until_something_it_depends_on_changes(change: str) -> None:
    params = weights(4)
    optimizer = stepwell.SGD(params, lr=0.1, momentum=0.5)
    optimizer.step()
    plan = optimizer._plan
    group = optimizer.param_groups[0]
    if change == "lr":
        group["lr"] = torch.tensor(0.5)
    elif change == "grad":
        params[1].grad = None
        params[2].grad = torch.randn(5)
    elif change == "data":
        params[0].data = params[0].data.clone()
    elif change == "flag":
        group["nesterov"] = True
    elif change == "state":
        optimizer.state[params[3]]["momentum_buffer"] = torch.ones(5)
    else:
        optimizer.add_param_group({"params": weights(1)})
    optimizer.step()
    assert (optimizer._plan is plan) == (change in ("lr", "grad", "data"))


def test_what_was_put_into_the_state_is_used() -> None:
    (p,) = weights(1)
    optimizer = stepwell.SGD([p], lr=1.0, momentum=0.5)
    optimizer.step()
    optimizer.state[p]["momentum_buffer"] = torch.full((5,), 4.0)
    before, p.grad = p.detach().clone(), torch.zeros(5)
    optimizer.step()
    torch.testing.assert_close(before - p, torch.full((5,), 2.0))


def test_an_lr_tensor_changed_in_place_is_followed() -> None:
    (p,) = weights(1)
    lr = torch.tensor(1.0)
    optimizer = stepwell.SGD([p], lr=lr)
    for value in (1.0, 0.25):
        lr.fill_(value)
        before, p.grad = p.detach().clone(), torch.ones(5)
        optimizer.step()
        torch.testing.assert_close(before - p, torch.full((5,), value))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_model_cast_after_the_first_step_goes_on(dtype: torch.dtype) -> None:
    model = torch.nn.Linear(4, 3)
    optimizer = stepwell.AdamW(model, lr=0.1)
    for cast in (torch.float32, dtype):
        model.to(cast)
        model(torch.ones(2, 4, dtype=cast)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    state = optimizer.state[model.weight]
    assert int(state["step"]) == 2
    assert state["exp_avg"].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert model.weight.dtype == dtype


@pytest.mark.parametrize("backend", ["eager", "cpu"])
def test_a_number_of_the_whole_run_outlives_a_plan_of_several_launches(backend: str) -> None:
    """The small tensor keeps fp32 beside int8: two launches, which share Prodigy's d."""
    ends = []
    for anew in (False, True):
        params = [torch.full((size,), 1.0, requires_grad=True) for size in (5000, 7)]
        optimizer = stepwell.Prodigy(params, d0=0.01, state="int8", backend=backend)
        for step in range(6):
            for p in params:
                p.grad = p.detach() * (1 + 0.1 * step)
            if step == 0:
                params[1].grad = None  # it joins later, and takes over what the other has learnt
            optimizer.step()
            if anew:
                optimizer.make_plan()
        assert optimizer.state[params[0]]["d"] == optimizer.state[params[1]]["d"] > 0.01
        ends.append(params)
    assert all(map(torch.equal, *ends))


def test_zero_grad() -> None:
    (p,) = weights(1)
    optimizer = stepwell.SGD([p])
    optimizer.zero_grad(set_to_none=False)
    assert torch.equal(p.grad, torch.zeros(5))
    optimizer.zero_grad()
    assert p.grad is None


def test_a_closure_gives_its_loss() -> None:
    p = torch.ones(3, requires_grad=True)
    optimizer = stepwell.SGD([p], lr=0.5)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 3.0
    assert torch.equal(p, torch.zeros(3))


def test_works_with_torch_schedulers_and_grad_scaler() -> None:
    model = torch.nn.Linear(4, 1)
    optimizer = stepwell.AdamW(model.parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    start = model.weight.detach().clone()
    for inputs in (torch.ones(2, 4), torch.full((2, 4), torch.inf)):
        before = model.weight.detach().clone()
        scaler.scale(model(inputs).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        optimizer.zero_grad()
    assert torch.equal(model.weight, before)  # the second step was skipped
    assert not torch.equal(before, start)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01)
    assert int(optimizer.state[model.weight]["step"]) == 1


def test_hooks_and_the_profiler_see_every_step() -> None:
    from torch.optim.optimizer import register_optimizer_step_post_hook

    (p,) = weights(1)
    optimizer = stepwell.SGD([p], lr=0.0)
    seen: list[str] = []
    optimizer.step()
    handles = [
        optimizer.register_step_pre_hook(lambda *_: seen.append("before")),
        optimizer.register_step_post_hook(lambda *_: seen.append("after")),
        register_optimizer_step_post_hook(lambda *_: seen.append("everywhere")),
    ]
    optimizer.step()
    assert optimizer.step(lambda: 5.0) == 5.0
    for handle in handles:
        handle.remove()
    optimizer.step()
    assert seen == ["before", "after", "everywhere"] * 2
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        optimizer.step()
    assert any(event.key == "Optimizer.step#SGD.step" for event in profile.key_averages())


def channels_last(data: torch.Tensor) -> torch.Tensor:
    return data.clone(memory_format=torch.channels_last)


def with_gaps(data: torch.Tensor) -> torch.Tensor:
    return torch.stack([data, data], dim=-1)[..., 0]


@pytest.mark.parametrize("state", ["fp32", "bf16", "int8", "int4"])
@pytest.mark.parametrize("backend", ["cpu", "eager"])
@pytest.mark.parametrize("change", [torch.Tensor.clone, channels_last, with_gaps])
def test_state_follows_weights_that_were_laid_out_anew(change: Callable, backend: str, state: str) -> None:
    """What was `p.data = ...` between two steps: each element keeps its own moments."""
    start, optimizers, params = torch.randn(16, 16, 6, 6), [], []
    for _ in range(2):
        p = start.clone().requires_grad_()
        params.append(p)
        optimizers.append(stepwell.AdamW([("w", p)], lr=0.1, backend=backend, state=state))
    for step in range(6):
        if step == 3:
            old, kept = params[0].data, params[0].detach().clone()
            params[0].grad = None
            params[0].data = change(params[0].data)
        gradient = torch.randn(16, 16, 6, 6, generator=torch.Generator().manual_seed(step)) * start.sign()
        for p, optimizer in zip(params, optimizers, strict=True):
            p.grad = gradient.clone()
            optimizer.step()
    assert torch.equal(old, kept)
    # blocks of codes and random bits follow memory: another layout rounds otherwise
    apart = (params[0] - params[1]).abs()
    assert apart.max() < {"fp32": 1e-6, "bf16": 0.05, "int8": 0.2, "int4": 0.6}[state]
    assert apart.mean() < {"fp32": 1e-7, "bf16": 2e-3, "int8": 5e-3, "int4": 0.05}[state]


@pytest.mark.parametrize("backend", ["cpu", "eager"])
def test_a_resized_parameter_is_refused_by_name_until_its_state_is_given_up(backend: str) -> None:
    p, other = torch.randn(6, 4, requires_grad=True), torch.randn(3, requires_grad=True)
    optimizer = stepwell.AdamW([("table", p), ("bias", other)], lr=0.1, backend=backend)
    for q in (p, other):
        q.grad = torch.ones_like(q)
    optimizer.step()
    p.data = p.data[:4]  # the same address, fewer rows
    before = p.detach().clone(), other.detach().clone()
    p.grad = torch.ones_like(p)
    with pytest.raises(stepwell.UsageError, match=r"'exp_avg' of 'table' has shape \(6, 4\) .* must be \(4, 4\)"):
        optimizer.step()
    assert torch.equal(p, before[0])
    assert torch.equal(other, before[1])
    del optimizer.state[p]
    optimizer.step()
    torch.testing.assert_close(p.detach(), before[0] * (1 - 0.1 * 0.01) - 0.1)
    assert optimizer.state[p]["exp_avg"].shape == (4, 4)
    assert float(optimizer.state[p]["step"]) == 1
    assert float(optimizer.state[other]["step"]) == 2


@pytest.mark.parametrize("rows", [4, 9])
@pytest.mark.parametrize("backend", ["cpu", "eager"])
def test_a_gradient_from_before_a_resize_is_refused(backend: str, rows: int) -> None:
    p = torch.randn(6, 4, requires_grad=True)
    optimizer = stepwell.SGD([("table", p)], lr=0.1, backend=backend)
    p.grad = torch.ones_like(p)
    optimizer.step()
    p.data = torch.zeros(rows, 4)
    with pytest.raises(
        stepwell.UsageError, match=rf"'table' has shape \({rows}, 4\), its gradient \(6, 4\): it was res"
    ):
        optimizer.step()
    assert not p.any()
    p.grad = torch.ones_like(p)
    optimizer.step()
    assert torch.equal(p, torch.full((rows, 4), -0.1))


@pytest.mark.parametrize("state", ["fp32", "int8", "int4"])
@pytest.mark.parametrize("saved_as", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("loaded_as", [torch.contiguous_format, torch.channels_last])
def test_a_checkpoint_is_read_into_another_layout(
    saved_as: torch.memory_format, loaded_as: torch.memory_format, state: str
) -> None:
    start = torch.randn(16, 16, 6, 6)
    steps = [torch.randn(16, 16, 6, 6) * start.sign() for _ in range(5)]
    p, q = (start.clone(memory_format=layout).requires_grad_() for layout in (saved_as, loaded_as))
    first, second = (stepwell.AdamW([("w", x)], lr=0.1, state=state) for x in (p, q))
    for gradient in steps[:3]:
        p.grad = gradient
        first.step()
    q.data.copy_(p.data)
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second.load_state_dict(torch.load(buffer, weights_only=True))
    for gradient in steps[3:]:
        for x, optimizer in ((p, first), (q, second)):
            x.grad = gradient
            optimizer.step()
    if saved_as == loaded_as:
        assert torch.equal(p, q)
    assert (p - q).abs().mean() < {"fp32": 1e-7, "int8": 5e-3, "int4": 0.03}[state]


def test_names_that_two_parameters_share_are_no_key() -> None:
    def built() -> tuple[list[torch.Tensor], stepwell.AdamW]:
        params = weights(2)
        # of two models, as in a GAN
        return params, stepwell.AdamW([{"params": [("weight", params[0])]}, {"params": [("weight", params[1])]}])

    params, optimizer = built()
    params[1].grad = 2 * params[0].grad if params[0].grad is not None else torch.ones(5)
    optimizer.step()
    others, resumed = built()
    resumed.load_state_dict(optimizer.state_dict())
    for p, other in zip(params, others, strict=True):
        assert torch.equal(resumed.state[other]["exp_avg"], optimizer.state[p]["exp_avg"])


def test_the_options_of_a_checkpoint_decide_which_slots_it_must_have() -> None:
    for there, here in ((False, True), (True, False)):
        params, others = weights(2), weights(2)
        saved, optimizer = stepwell.AdamW(params, amsgrad=there), stepwell.AdamW(others, amsgrad=here)
        saved.step()
        optimizer.load_state_dict(saved.state_dict())
        for p, other in zip(params, others, strict=True):
            other.data, other.grad = p.detach().clone(), p.grad
        assert optimizer.param_groups[0]["amsgrad"] is there
        for _ in range(2):
            saved.step()
            optimizer.step()
        assert all(torch.equal(p, q) for p, q in zip(params, others, strict=True))
        assert ("max_exp_avg_sq" in optimizer.state[others[0]]) is there


def test_a_tensor_for_lr_is_not_shared_with_the_checkpoint() -> None:
    saved = stepwell.SGD(weights(1), lr=torch.tensor(0.5)).state_dict()
    first, second = stepwell.SGD(weights(1)), stepwell.SGD(weights(1))
    for optimizer in (first, second):
        optimizer.load_state_dict(saved)
    first.param_groups[0]["lr"].zero_()
    assert float(second.param_groups[0]["lr"]) == 0.5
    assert float(saved["param_groups"][0]["lr"]) == 0.5


@pytest.mark.parametrize("backend", ["eager", "cpu"])
def test_a_state_that_was_replaced_begins_anew(backend: str) -> None:
    params = weights(2)
    optimizer = stepwell.SGD(params, lr=0.0, momentum=0.5, backend=backend)
    optimizer.step()
    optimizer.state = collections.defaultdict(dict)
    optimizer.step()
    for p in params:
        assert float(optimizer.state[p]["step"]) == 1
        assert torch.equal(optimizer.state[p]["momentum_buffer"], p.grad)  # the first gradient, whole
    other = stepwell.SGD(params, lr=0.0, momentum=0.5, backend=backend)
    other.state = optimizer.state
    other.step()
    assert float(other.state[params[0]]["step"]) == 2


@pytest.mark.parametrize("backend", ["eager", "cpu"])
def test_a_parameter_put_in_the_place_of_another_is_the_one_that_moves(backend: str) -> None:
    params, (new,) = weights(2), weights(1)
    optimizer = stepwell.SGD(params, lr=0.1, backend=backend)
    optimizer.step()
    before = [p.detach().clone() for p in (params[0], new)]
    optimizer.param_groups[0]["params"][0] = new
    optimizer.step()
    assert torch.equal(params[0], before[0])
    assert not torch.equal(new, before[1])


def test_a_word_that_is_put_into_a_group_is_refused_at_the_step() -> None:
    (p,) = weights(1)
    optimizer = stepwell.SGD([p], lr=0.1)
    optimizer.step()
    before = p.detach().clone()
    optimizer.param_groups[0]["lr"] = "1e-3"
    with pytest.raises(UsageError, match="lr='1e-3' in group 0"):
        optimizer.step()
    assert torch.equal(p, before)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_a_checkpoint_goes_in_and_out_of_what_wraps_a_model(prefix: str) -> None:
    """torch.compile and DistributedDataParallel put a word before each name."""
    names, optimizers = (["0.weight", "0.bias"], [f"{prefix}{name}" for name in ("0.weight", "0.bias")]), []
    for own in names:
        params = [torch.ones(3, 2, requires_grad=True), torch.ones(3, requires_grad=True)]
        for place, p in enumerate(params):
            p.grad = torch.full_like(p, place + 1.0)
        optimizer = stepwell.SGD(list(zip(own, params, strict=True)), lr=0.1, momentum=0.9)
        optimizer.step()
        optimizers.append((optimizer, params))
    for (optimizer, params), (other, _) in (optimizers, optimizers[::-1]):
        backwards = other.state_dict()
        backwards["param_groups"][0]["params"].reverse()
        backwards["param_groups"][0]["param_names"] = backwards["param_groups"][0]["param_names"][::-1]
        optimizer.load_state_dict(backwards)  # by name, so the order does not matter
        assert optimizer.state[params[1]]["momentum_buffer"].tolist() == [2.0] * 3


def test_parameters_without_values_are_refused_at_the_step() -> None:
    p = torch.ones(3, device="meta", requires_grad=True)
    optimizer = stepwell.AdamW([("w", p)])
    p.grad = torch.ones(3, device="meta")
    with pytest.raises(stepwell.UsageError, match=r"'w' is on the meta device, .* model\.to_empty"):
        optimizer.step()
    assert "exp_avg" not in optimizer.state[p]


def test_defaults_of_torch_that_ask_for_nothing_are_passed_over() -> None:
    p = torch.ones(3, requires_grad=True)
    theirs = torch.optim.AdamW([p], lr=0.1)
    for optimizer in (stepwell.AdamW([p], **theirs.defaults), stepwell.AdamW(theirs.param_groups)):
        assert optimizer.param_groups[0]["lr"] == 0.1
    with pytest.raises(stepwell.UsageError, match="fused=True"):
        stepwell.AdamW([p], fused=True)
