"""The state of optimizers through torch.distributed.checkpoint: every slot and the next updates are bitwise the same,
for any number of processes."""

from __future__ import annotations

import pytest

from tests.sharding import dcp as cases

pytest.importorskip("torch.distributed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("dcp"),
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("one_thread"),
]


@pytest.mark.parametrize(("begin", "ends"), [(2, (2, 4, 1)), (4, (2,)), (1, (2,))])
def test_any_number_of_processes_loads_in_every_way(
    begin: int, ends: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEPWELL_TEST_FOLDER", "")  # restored afterwards
    assert cases.tried(cases.SAMPLE, begin, ends) == {}


def test_the_sample_is_part_of_everything() -> None:
    assert set(cases.SAMPLE) <= set(cases.everything())
    assert len(cases.everything()) > 150
