"""Matrices that are divided over processes: the update is that of one process, and all decide together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import stepwell as sw
from stepwell.engine.divided.owners import assigned
from stepwell.optimizers import find
from tests.processes import Answers, in_processes
from tests.sharding import matrices as cases
from tests.sharding import matrix_models as models
from tests.sharding.matrices import quiet

pytest.importorskip("torch.distributed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("matrices"),
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("one_thread"),
]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEPWELL_TEST_FOLDER", str(tmp_path_factory.mktemp("matrices")))
        return in_processes(cases.CASES, 2)


@pytest.fixture(scope="module")
def four() -> Answers:
    return in_processes(cases.FOUR, 4)


def answer(found: Answers, rank: int, case: str) -> Any:
    assert not isinstance(found[rank][case], str), found[rank][case]
    return found[rank][case]


def same(ours: list[torch.Tensor], expected: list[torch.Tensor]) -> bool:
    return len(ours) == len(expected) and all(map(torch.equal, ours, expected))


def test_a_gradient_that_one_process_lacks_is_an_error_in_all(two: Answers) -> None:
    expected = cases.Run(sw.Shampoo)
    expected.update(3)
    for rank in range(2):
        said, unchanged, weights = answer(two, rank, "a_gradient_that_one_process_lacks")
        assert said.startswith("'p2' has a gradient in 1 of 2 processes; all processes that have parts of a parameter")
        assert unchanged
        assert same(weights, expected.weights())


def test_parameters_without_a_gradient_anywhere_are_left_out(two: Answers, four: Answers) -> None:
    for found, count in ((two, 2), (four, 4)):
        for rank in range(count):
            case = "a_gradient_that_is_missing_everywhere"
            assert same(answer(found, rank, case), cases.a_gradient_that_is_missing_everywhere())


def test_a_skipped_update_changes_nothing(two: Answers) -> None:
    for rank in range(2):
        assert same(answer(two, rank, "found_inf"), cases.found_inf())
        assert "UsageError: found_inf is not 0 in 1 of 2 processes" in two[rank]["found_inf_in_one_process"]


def test_a_matrix_that_is_not_finite_makes_no_step_anywhere(two: Answers) -> None:
    weights, counts, said = cases.a_matrix_that_is_not_finite()
    warned = []
    for rank in range(2):
        ours, our_counts, our_said = answer(two, rank, "a_matrix_that_is_not_finite")
        assert same(ours, weights)
        assert our_counts == counts == [4.0, 4.0, 3.0, 4.0, 4.0, 4.0]
        warned += our_said
    assert warned == said == ["the gradient of 'p2' is not finite, or too large for its second moments in fp32"]


def test_an_interrupted_update_is_completed_in_all_processes(two: Answers) -> None:
    runs = [cases.Run(sw.Shampoo, **cases.SHAMPOO), cases.Run(sw.Adafactor)]
    for expected in runs:
        expected.update(3)
    for rank in range(2):
        found = answer(two, rank, "interrupted")
        assert len(found) == 4
        for place, (raised, weights) in enumerate(found):
            assert raised == (rank == 0)
            assert same(weights, runs[place // 2].weights())


def test_state_is_with_the_owner_alone(two: Answers) -> None:
    alone = cases.Run(sw.Shampoo, **cases.SHAMPOO)
    alone.update()
    held = [answer(two, rank, "state_is_with_the_owner") for rank in range(2)]
    assert sum(size for size, _, _ in held) == alone.optimizer.state_bytes()
    assert [a + b for a, b in zip(held[0][1], held[1][1], strict=True)] == [1] * len(cases.SHAPES)
    for rank, (_, owned, explained) in enumerate(held):
        assert "divided over processes; this process owns the whole matrix" in explained
        assert f"divided over processes; process {1 - rank} of 2 owns the whole matrix" in explained
        assert any(owned)


def test_matrices_keep_their_owners_when_the_plan_changes(two: Answers) -> None:
    for rank in range(2):
        assert same(answer(two, rank, "replanned"), cases.replanned())


def test_a_state_is_loaded_and_cleared(two: Answers) -> None:
    alone = cases.copied()
    for rank in range(2):
        equal, weights, counts = answer(two, rank, "copied")
        assert equal
        assert same(weights, alone[1])
        assert counts == [1.0] * len(cases.SHAPES)


def test_the_state_of_one_process_alone_is_an_error_and_no_hang(two: Answers) -> None:
    said = two[0]["state_dict_in_one_process"]
    assert "Shampoo: every rank must call optimizer.state_dict in this run; after 1 seconds rank 1 had not" in said
    assert two[1]["state_dict_in_one_process"] is None


def test_models_under_fsdp_and_tensor_parallelism(two: Answers, four: Answers) -> None:
    expected = models.trained("")
    for found, count, case in ((two, 2, "under_fsdp"), (four, 4, "under_fsdp_and_tensor")):
        for rank in range(count):
            for ours, theirs in zip(answer(found, rank, case), expected, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=2e-3, atol=2e-4)  # gradients are sums over processes


def test_torch_saves_and_loads_the_state(two: Answers) -> None:
    for rank in range(2):
        found = answer(two, rank, "through_torch")
        assert found == dict.fromkeys(("nested", "flat", "whole", "broadcast"), (True, True))


def test_an_update_takes_three_collectives_whatever_the_number_of_matrices(two: Answers, four: Answers) -> None:
    for found, count, case in ((two, 2, "few_matrices"), (two, 2, "many_matrices"), (four, 4, "many_matrices")):
        sent = []
        for rank in range(count):
            calls, hidden, _ = answer(found, rank, case)
            assert sorted(name for name, _ in calls) == ["all_reduce", "all_to_all_single", "all_to_all_single"]
            sent.append(sum(size for name, size in calls if name == "all_to_all_single"))
        limit = 2 * hidden * (count - 1) / count**2
        assert sum(sent) / count <= 1.05 * limit
        assert max(sent) <= 1.15 * limit  # as even as the owners' work


def test_sums_take_eight_bytes_for_a_row_or_column(two: Answers) -> None:
    for rank in range(2):
        calls, _, sides = answer(two, rank, "many_sums")
        assert [name for name, _ in calls] == ["all_reduce"] * 4  # norm; vectors once, matrices twice
        assert sum(sorted(size for _, size in calls)[-1:]) <= 8 * sides + 8 * 26


def test_copies_divide_work_and_state(two: Answers, tmp_path: Path) -> None:
    """Under DistributedDataParallel with the same batches, whose mean is exact for two."""
    alone = models.copies(None, str(tmp_path))
    for place, ((expected, resumed), (held, _)) in enumerate(alone):
        assert same(resumed, expected)
        sizes = []
        for rank in range(2):
            (weights, again), (size, size_again) = answer(two, rank, "owned_copies")[place]
            assert same(weights, expected)
            assert same(again, expected)
            assert size == size_again
            sizes.append(size)
        assert max(sizes) < 0.75 * held  # AdamW's part of Muon's state is in both


def test_a_switch_carries_the_momentum_of_divided_matrices(two: Answers) -> None:
    """With the same batches in both processes, whose mean is exact for two."""
    alone = quiet(models.switched)
    for rank in range(2):
        for ours, expected in zip(answer(two, rank, "switched"), alone, strict=True):
            assert same(ours, expected)


def test_wrong_process_groups_are_refused(two: Answers) -> None:
    for rank in range(2):
        first, second = answer(two, rank, "wrong_groups")
        assert first.startswith("Muon: process_group='world'; it must be a process group of torch.distributed")
        assert second == "AdamW: process_group divides whole matrices over processes, and AdamW has none; omit it"


GPT2 = [(2304, 768), (768, 768), (3072, 768), (768, 3072)] * 12
GPT2_HALF = GPT2[:24]
LLAMA = [(4096, 4096)] * 4 + [(11008, 4096)] * 2 + [(4096, 11008)]
LLAMA_GROUPED = [(4096, 4096)] * 2 + [(1024, 4096)] * 2 + [(14336, 4096)] * 2 + [(4096, 14336)]


@pytest.mark.parametrize("shapes", [GPT2, GPT2_HALF, LLAMA * 6, LLAMA_GROUPED * 32])
@pytest.mark.parametrize("count", [2, 3, 4, 8])
@pytest.mark.parametrize("name", ["Muon", "SOAP", "Shampoo"])
def test_work_and_state_are_divided_evenly(name: str, count: int, shapes: list[tuple[int, int]]) -> None:
    group = {"max_precond_dim": 10_000, "precondition_frequency": 10}
    works = [find(name).work(group, shape) for shape in shapes]
    owners = assigned(works, count)
    loads = [sum(work for work, owner in zip(works, owners, strict=True) if owner == rank) for rank in range(count)]
    sizes = [sum(a * b for (a, b), owner in zip(shapes, owners, strict=True) if owner == rank) for rank in range(count)]
    print(name, count, max(loads) / (sum(loads) / count), max(sizes) / (sum(sizes) / count))
    assert max(loads) <= 1.15 * sum(loads) / count
