"""Accelerate, the Hugging Face Trainer and Lightning in two processes."""

from __future__ import annotations

import pytest

from tests.processes import Answers, in_processes
from tests.sharding import trainers

pytest.importorskip("torch.distributed")
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("page"), pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEPWELL_TEST_FOLDER", str(tmp_path_factory.mktemp("trainers")))
        return in_processes(trainers.CASES, 2)


def test_accelerate_trains_saves_and_resumes_bit_for_bit(found: Answers) -> None:
    straight, resumed, number, again = found[0]["accelerate"]
    assert straight == resumed
    assert (number, again) == (9, 9)
    assert found[1]["accelerate"] == found[0]["accelerate"]


def test_the_hugging_face_trainer_trains_saves_and_resumes_bit_for_bit(found: Answers) -> None:
    straight, resumed = found[0]["transformers"]
    assert resumed == straight
    assert straight[1:] == (9, pytest.approx(0.0, abs=1e-9))
    assert found[1]["transformers"] == found[0]["transformers"]


@pytest.mark.parametrize("case", ["lightning", "lightning sharded"])
def test_lightning_trains_saves_and_resumes_bit_for_bit(case: str, found: Answers) -> None:
    straight, resumed = found[0][case]
    assert resumed == straight
    assert straight[1] == 9
    assert found[1][case] == found[0][case]
