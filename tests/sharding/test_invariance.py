"""The same run on any number of processes, to the bit."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from tests.processes import Answers, in_processes
from tests.sharding import invariance

pytest.importorskip("torch.distributed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("invariance"),
    pytest.mark.timeout(900),  # of cold kernels in three and four processes
]


@cache
def alone(name: str, format_: str) -> list[Tensor]:
    return invariance.trained(name, format_, None)


@pytest.fixture(scope="module", autouse=True)
def compiled(one_thread: None) -> None:
    """The kernels are compiled here, once, and read by the processes from the cache folder."""
    for name in invariance.names():
        for format_ in invariance.FORMATS:
            if invariance.is_tried(name, format_):
                alone(name, format_)


@pytest.fixture(scope="module")
def three() -> Answers:
    return in_processes(invariance.cases(invariance.THREE), 3, timeout=400)


@pytest.fixture(scope="module")
def four() -> Answers:
    return in_processes(invariance.cases(invariance.FOUR), 4, timeout=400)


@pytest.mark.parametrize("name", invariance.names())
def test_updates_are_those_of_one_process_bit_for_bit(name: str, three: Answers, four: Answers) -> None:
    compared = 0
    for found, layouts in ((three, invariance.THREE), (four, invariance.FOUR)):
        for how, formats in layouts.items():
            for format_ in formats:
                for rank in found:
                    ours = found[rank].get(f"{name}, {format_}, {how}")
                    if ours is None:  # see `invariance.cases`
                        continue
                    compared += 1
                    assert not isinstance(ours, str), ours
                    assert all(map(torch.equal, ours, alone(name, format_))), (how, format_, rank)
    assert compared >= 3 + 4  # where codes are cut in rows alone


def test_most_optimizers_are_among_them() -> None:
    assert len(invariance.names()) >= 30
    assert {"AdamW", "LAMB", "LARS", "NovoGrad", "Prodigy", "Lion", "NAdam", "Muon", "SOAP"} <= set(invariance.names())
