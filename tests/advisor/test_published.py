"""The published configurations: read whole, found by words, and never with a missing key."""

from __future__ import annotations

import json
from importlib import resources

import pytest

from stepwell.advisor.published import FILES, NAMES, batch_unit, find, kind_of, published, read, schedule_kind, search
from stepwell.errors import UsageError


def test_every_row_of_the_data_is_read_with_all_keys() -> None:
    folder = resources.files("stepwell.advisor").joinpath("data")
    rows = [row for name in FILES for row in json.loads(folder.joinpath(name).read_text())]
    assert len(published()) == len(rows) == 382
    assert len(NAMES) == 39
    for row, one in zip(rows, published(), strict=True):
        assert {name: getattr(one, name) for name in NAMES} == row
    assert len({row.id for row in published()}) == 382


def test_a_row_without_a_key_is_refused_by_name() -> None:
    row = dict.fromkeys(NAMES) | {"id": "mine"}
    lacking = {key: value for key, value in row.items() if key != "lr"}
    with pytest.raises(UsageError, match=r"mine: the key 'lr' is missing"):
        read([lacking])
    with pytest.raises(UsageError, match=r"mine: the key 'rate' is not one of the schema"):
        read([row | {"rate": 1}])


def test_bases_and_factors_are_no_peak_rates() -> None:
    bases = {row.id for row in published() if not row.lr_is_peak}
    assert {"conformer-ctc-l-nemo-librispeech", "airbench94-small-cnn-cifar-10", "ldm-cin-f8-imagenet-256"} <= bases
    assert "resnet-50-imagenet-1k" not in bases
    assert len(bases.intersection(row.id for row in published()[:284])) < 12
    assert len(bases) < 15


def test_a_batch_per_device_is_not_global() -> None:
    assert not find("detr-r50-coco-ft").batch_is_global
    assert not find("clip-with-roberta-text-tower-laion").batch_is_global
    assert find("biggan-128-imagenet-128").batch_is_global
    assert batch_unit("tokens/GPU") is None


def test_search_and_find() -> None:
    assert find("vit-b-16-imagenet-1k").lr == 3e-3
    assert search("dcgan mnist")[0].id == "dcgan-mnist"
    with pytest.raises(UsageError, match="unknown recipe"):
        find("no such thing anywhere")
    with pytest.raises(UsageError, match="must be a name"):
        find("")


def test_kinds() -> None:
    assert kind_of("paged_adamw_32bit") == kind_of("Adam") == "adam"
    assert kind_of("NAG") == "sgd"
    assert kind_of("Something") == "something"
    assert schedule_kind("multistep") == schedule_kind("step") == "stairs"
    assert {schedule_kind(row.schedule) for row in published()} >= {"cosine", "hold", None}
