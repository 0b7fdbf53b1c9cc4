"""Processes that train together make one decision, keep one state, and are told by name what cannot work."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import stepwell as sw
from tests.processes import Answers, in_processes
from tests.sharding import agreement as cases

pytest.importorskip("torch.distributed")
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("agreement"), pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def found() -> Answers:
    return in_processes(cases.CASES, 2)


def both(found: Answers, case: str) -> Any:
    """The answer to a case, which is that of both processes."""
    assert found[0][case] == found[1][case]
    assert not isinstance(found[0][case], str), found[0][case]
    return found[0][case]


@pytest.mark.parametrize(
    ("case", "sizes"),
    [("weighted_sharded", (2, 6)), ("weighted_replicated", (2, 6)), ("one_sample_on_one_rank", (1, 6))],
)
def test_weights_count_over_all_processes(case: str, sizes: tuple[int, int], found: Answers) -> None:
    weights, norm = both(found, case)
    alone, expected = cases.weighted_alone(sizes)
    assert weights == pytest.approx(alone, rel=1e-5, abs=1e-7)
    assert norm == pytest.approx(expected, rel=1e-5)


def test_sums_over_all_parameters_are_equal_where_a_process_has_no_row(found: Answers) -> None:
    for (weights, numbers), kind in zip(both(found, "estimated"), (sw.Prodigy, sw.DAdaptAdam, sw.NAdam), strict=True):
        network = cases.model(1)
        optimizer = kind(network.named_parameters())
        for number in range(6):
            batches = [cases.rows(rank, number) for rank in range(2)]
            sum(cases.loss(network, batch) / 2 for batch in batches).backward()
            optimizer.step()
            optimizer.zero_grad()
        alone = cases.numbers(optimizer)
        assert weights == pytest.approx(cases.whole(network), rel=1e-3, abs=1e-5)
        assert len(numbers) == len(alone) == 4
        for one, other in zip(numbers, alone, strict=True):
            assert one == pytest.approx(other, rel=1e-4)


def test_empty_shards_have_state(found: Answers) -> None:
    keys, steps, _ = found[0]["state_of_empty_shards"]
    assert found[1]["state_of_empty_shards"][:2] == (keys, steps)
    assert keys == ["0.bias", "0.weight", "2.bias", "2.weight"]
    assert [one["step"] for one in steps] == [6.0] * 4
    shapes = found[0]["state_of_empty_shards"][2]
    assert shapes["2.weight"] == (1, 8)
    assert shapes["0.weight"] == (8, 6)


@pytest.mark.parametrize("case", ["rounded_by_rows", "rounded_by_columns"])
def test_parts_are_rounded_as_in_one_process(case: str, found: Answers) -> None:
    for ours, (state, weights) in zip(both(found, case), cases.ROUNDED, strict=True):
        assert ours == cases.rounded(False, state, weights).tolist(), (state, weights)


def test_processes_do_not_draw_the_same_bits(found: Answers) -> None:
    assert 0.4 < both(found, "halves_round_alike") < 0.9  # by chance: 0.63


def test_norm_and_sums_take_one_reduction_each(found: Answers) -> None:
    assert both(found, "reductions") == {"AdamW": 1, "LAMB": 2, "Prodigy": 2}


def test_a_number_that_is_not_finite_in_one_process_is_skipped_by_all(found: Answers) -> None:
    assert both(found, "not_a_number_on_one_rank") == (0, 1, True)


def test_stages_of_a_pipeline_have_one_norm_and_skip_together(found: Answers) -> None:
    (norm,), number, skipped, gradients = both(found, "stages")
    squares = 0.0
    for rank in range(2):
        torch.manual_seed(rank)
        part = torch.nn.Linear(6, 2)
        cases.loss(part, cases.rows(rank)).backward()
        squares += sum(float(p.grad.square().sum()) for p in part.parameters() if p.grad is not None)
    assert norm == pytest.approx(squares**0.5, rel=1e-5)
    assert (number, skipped, gradients) == (1, 1, [None, None])


def test_an_optimizer_that_was_made_before_the_model_was_sharded_is_named(found: Answers) -> None:
    ((said, file),) = both(found, "made_before")
    assert file == "agreement.py"  # the line of the user's loop
    assert said.startswith("AdamW: no parameter has a gradient, so nothing is updated; if fully_shard")
    for rank in range(2):
        assert "make the optimizer after that call" in found[rank]["made_before_a_step"]


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("zero_prodigy", "Prodigy: cannot update parameter 0: its rate follows from sums over all parameters"),
        ("lbfgs", "LBFGS: the parameter '0.weight' is sharded or replicated over processes"),
        ("reads_weights", "Weighted: cannot update the parameter '0.weight': it is sharded over a device mesh"),
        ("fsdp1_step", "Step: the parameters are parts of FullyShardedDataParallel (FSDP1)"),
        ("fsdp1_muon", "Muon: cannot update the parameter '_fsdp_wrapped_module.0.weight': it is a flat part"),
        ("fsdp1_lamb", "LAMB: cannot update the parameter '_fsdp_wrapped_module.0.weight': it is a flat part"),
    ],
)
def test_what_cannot_work_is_refused_by_name_when_it_is_made(case: str, said: str, found: Answers) -> None:
    for rank in range(2):
        assert found[rank][case].startswith(f"UsageError: {said}")


def test_single_elements_are_exact_inside_zero(found: Answers) -> None:
    assert both(found, "zero_adamw") is True


def test_single_elements_need_no_shape_under_fsdp1(found: Answers) -> None:
    assert both(found, "fsdp1_adamw") < 1e-6
