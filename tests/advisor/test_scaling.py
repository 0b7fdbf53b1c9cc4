"""Another batch size, number of devices, width or optimizer, by published rules with their limits."""

from __future__ import annotations

import pytest

import stepwell as sw
from stepwell.advisor import scaling
from stepwell.errors import UsageError


@pytest.fixture
def sgd() -> sw.Recipe:
    return sw.advise("ResNet-50", dataset="ImageNet-1k", batch_size=256, steps=10_000)


@pytest.fixture
def adam() -> sw.Recipe:
    return sw.advise("ViT-B/16", task="image_classification", batch_size=1024, steps=10_000)


def test_linear_for_momentum_and_square_root_for_adam(sgd: sw.Recipe, adam: sw.Recipe) -> None:
    assert sgd.scaled(batch_size=1024).lr == pytest.approx(4 * sgd.lr)
    assert adam.scaled(batch_size=4096).lr == pytest.approx(2 * adam.lr)
    assert adam.scaled(batch_size=256).lr == pytest.approx(adam.lr / 2)
    assert sgd.scaled(batch_size=1024).lr_range == pytest.approx([4 * end for end in sgd.lr_range], rel=0.01)


def test_warmup_and_length_keep_their_samples(adam: sw.Recipe) -> None:
    new = adam.scaled(batch_size=4096)
    assert abs(new.value("warmup") - adam.value("warmup") / 4) <= 0.5
    assert new.value("steps") == 2500
    assert adam.scaled(batch_size=4096, steps=7).value("steps") == 7
    assert new.value("batch_size") == 4096


def test_beta2_keeps_its_half_life_in_samples(adam: sw.Recipe) -> None:
    import math

    betas = adam.scaled(batch_size=4096).betas
    assert betas is not None
    assert math.log(0.5) / math.log(betas[1]) * 4 == pytest.approx(math.log(0.5) / math.log(0.999), rel=1e-3)


def test_the_timescale_of_decoupled_decay_stays(adam: sw.Recipe) -> None:
    new = adam.scaled(batch_size=4096)
    assert 4096 / (new.lr * new.weight_decay) == pytest.approx(1024 / (adam.lr * adam.weight_decay), rel=1e-2)
    assert "timescale" in new["weight_decay"].reason


def test_more_than_eight_times_warns(sgd: sw.Recipe, adam: sw.Recipe) -> None:
    assert not any("warning" in note for note in sgd.scaled(batch_size=2048).notes)
    for new in (sgd.scaled(batch_size=2049), adam.scaled(batch_size=100)):
        assert any(note.startswith("warning: the batch size changes") for note in new.notes)
        assert new["lr"].sure == "low"


def test_devices_grow_the_batch(sgd: sw.Recipe) -> None:
    new = sgd.scaled(devices=4)
    assert new.value("batch_size") == 1024
    assert new.lr == pytest.approx(0.4)
    assert new.scaled(devices=2).lr == pytest.approx(0.2)


def test_width_by_mup(adam: sw.Recipe, sgd: sw.Recipe) -> None:
    assert adam.scaled(width=2).lr == pytest.approx(adam.lr / 2)
    with pytest.raises(UsageError, match="no published rule for the width with SGD"):
        sgd.scaled(width=2)
    muon = adam.with_optimizer("muon")
    assert muon.scaled(width=2).lr == muon.lr


def test_families_whose_rates_do_not_follow_the_batch_are_warned_about() -> None:
    gan = sw.advise("DCGAN", batch_size=64, steps=100).scaled(batch_size=128)
    assert any("do not follow the batch size" in note for note in gan.notes)


def test_refusals(sgd: sw.Recipe) -> None:
    with pytest.raises(UsageError, match="give batch_size, devices or width"):
        sgd.scaled()
    with pytest.raises(UsageError, match="give one"):
        sgd.scaled(batch_size=3, devices=3)
    with pytest.raises(UsageError, match="batch_size=0"):
        sgd.scaled(batch_size=0)
    with pytest.raises(UsageError, match="per device"):
        sw.recipe("detr").scaled(batch_size=16)
    with pytest.raises(UsageError, match="unknown unit"):
        sw.recipe("wav2vec2").scaled(batch_size=16)


def test_a_base_rate_is_never_scaled() -> None:
    from stepwell.advisor.published import find
    from stepwell.advisor.situation import Situation

    one = Situation(family="speech_audio", batch_size=64)
    assert scaling.brought(find("conformer-ctc-l-nemo-librispeech"), one, "adam") is None
    found = scaling.brought(find("detr-r50-coco-ft"), Situation(family="detection_segmentation", batch_size=64), "adam")
    assert found is not None
    assert "per device" in found[1]


def test_scaled_recipes_build_and_print(adam: sw.Recipe) -> None:
    assert "STEPS = 2_500" in adam.scaled(batch_size=4096).code()
