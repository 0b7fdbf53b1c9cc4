"""Tasks over local data, on small folders that the tests make: they train, repeat, and refuse another folder."""

from __future__ import annotations

import math
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import stepwell as sw
from stepwell import tasks
from stepwell.errors import UsageError
from stepwell.tasks import augment, cifar10, image_folder


def cifar(folder: Path, binary: bool, count: int = 8) -> Path:
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for name in cifar10.BATCHES:
        data = random.integers(0, 256, (count, 3072), dtype=np.uint8)
        labels = random.integers(0, 10, count).tolist()
        if binary:
            rows = np.concatenate([np.array(labels, dtype=np.uint8)[:, None], data], axis=1)
            (folder / f"{name}.bin").write_bytes(rows.tobytes())
        else:
            (folder / name).write_bytes(pickle.dumps({b"data": data, b"labels": labels}, protocol=2))
    return folder


def pictures(folder: Path, count: int, shade: int) -> None:
    folder.mkdir(parents=True)
    random = np.random.default_rng(shade)
    for number in range(count):
        pixels = np.clip(random.normal(shade, 20, (50, 40 + number, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03}.{'png' if number % 2 else 'jpg'}")


def two_classes(folder: Path) -> Path:
    pictures(folder / "dark", 10, 60)
    pictures(folder / "light", 10, 190)
    return folder


def novel(path: Path) -> Path:
    words = random.Random(0).choices(["to", "be", "or", "not", "that", "is"], k=2000)
    path.write_text(" ".join(words))
    return path


def made(kind: str, folder: Path) -> str:
    if kind == "text":
        return f"text:{novel(folder / 'novel.txt')}"
    return f"{kind}:{two_classes(folder / 'x') if kind == 'images' else cifar(folder / 'x', binary=False)}"


@pytest.mark.parametrize("kind", tasks.LOCAL)
def test_local_data_trains_and_repeats(kind: str, tmp_path: Path) -> None:
    task = tasks.find(made(kind, tmp_path))
    assert task.name == kind
    tasks.probe(task)
    ends = []
    for _ in range(2):
        model, stream = task.build(1), task.stream(1)
        batch = next(stream)
        optimizer = sw.AdamW(model, lr=3e-3)
        first = task.loss(model, batch).item()
        for _ in range(8):
            optimizer.zero_grad()
            loss = task.loss(model, batch)
            loss.backward()
            optimizer.step()
        assert loss.item() < first
        assert math.isfinite(task.measure(model))
        ends.append(loss.item())
    assert ends[0] == ends[1]


def test_both_versions_of_cifar_hold_the_same_images(tmp_path: Path) -> None:
    pickled, binary = (
        cifar(tmp_path / "py", binary=False),
        cifar(tmp_path / "bin" / "cifar-10-batches-bin", binary=True),
    )
    for one, other in zip(cifar10.images(pickled), cifar10.images(binary.parent), strict=True):
        assert torch.equal(one, other)
    train, labels, test, _ = cifar10.images(pickled)
    assert (train.shape, test.shape, len(labels)) == ((40, 3, 40, 40), (8, 3, 32, 32), 40)
    assert (train[:, :, :4] == 0).all()


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (Path(tmp_path / "ran"),)  # type: ignore[return-value]

    folder = cifar(tmp_path / "x", binary=False)
    (folder / "data_batch_3").write_bytes(pickle.dumps({b"data": Harmful(), b"labels": [1]}))
    with pytest.raises(UsageError, match=r"data_batch_3' cannot be read: UnpicklingError"):
        cifar10.images(folder)
    assert not (tmp_path / "ran").exists()


def test_crops_lie_inside_the_image_and_some_are_mirrored() -> None:
    image = torch.arange(40 * 40).view(1, 1, 40, 40).expand(200, 3, 40, 40)
    crops = augment.random_crops(image, torch.Generator().manual_seed(0))
    assert crops.shape == (200, 3, 32, 32)
    step = crops[:, 0, :, 1:] - crops[:, 0, :, :-1]
    assert set(step.unique().tolist()) == {-1, 1}
    assert 60 < (step[:, 0, 0] == 1).sum() < 140
    assert (crops[:, 0, 1:] - crops[:, 0, :-1] == 40).all()
    assert len(crops[:, 0].amin(dim=(1, 2)).unique()) > 50  # of 81 places
    assert torch.equal(crops, augment.random_crops(image, torch.Generator().manual_seed(0)))
    assert not torch.equal(crops, augment.random_crops(image, torch.Generator().manual_seed(1)))
    assert torch.equal(augment.center(image)[0, 0, 0, :2], torch.tensor([164, 165]))


def test_images_are_split_by_a_fixed_rule(tmp_path: Path) -> None:
    train, held_out, names = image_folder.split(two_classes(tmp_path / "x"))
    assert names == ["dark", "light"]
    assert [(path.parent.name, path.stem, label) for path, label in held_out] == [
        ("dark", "004", 0), ("dark", "009", 0), ("light", "004", 1), ("light", "009", 1)
    ]  # fmt: skip
    assert len(train) == 16
    assert not {path for path, _ in train} & {path for path, _ in held_out}


def test_folders_for_training_and_validation_are_used_as_they_are(tmp_path: Path) -> None:
    two_classes(tmp_path / "train")
    pictures(tmp_path / "val" / "light", 3, 190)
    train, held_out, names = image_folder.split(tmp_path)
    assert (len(train), [label for _, label in held_out], names) == (20, [1, 1, 1], ["dark", "light"])
    pictures(tmp_path / "val" / "other", 1, 10)
    with pytest.raises(UsageError, match="holds the class 'other'; expected: only classes that train/ holds"):
        tasks.find(f"images:{tmp_path}")


def test_many_images_are_thinned_evenly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(image_folder, "MOST_TRAINED_ON", 6)
    train, _, _ = image_folder.split(two_classes(tmp_path / "x"))
    assert [label for _, label in train] == [0, 0, 0, 1, 1, 1]
    assert [path.stem for path, _ in train[:3]] == ["000", "002", "006"]


def test_a_folder_of_texts_holds_out_the_end_of_each(tmp_path: Path) -> None:
    from stepwell.tasks import text_files

    (tmp_path / "inner").mkdir()
    (tmp_path / "a.txt").write_text("a" * 2000)
    (tmp_path / "inner" / "b.txt").write_text("b" * 1000)
    (tmp_path / "c.md").write_text("c" * 1000)
    train, held_out = (part.numpy().tobytes() for part in text_files.texts(tmp_path))
    assert train == b"a" * 1800 + b"\n" + b"b" * 900
    assert held_out == b"a" * 200 + b"\n" + b"b" * 100


def test_changed_data_has_another_version(tmp_path: Path) -> None:
    path = novel(tmp_path / "novel.txt")
    before = tasks.find(f"text:{path}").about["version of the data"]
    path.write_text(path.read_text() + " more")
    assert tasks.find(f"text:{path}").about["version of the data"] != before


def refused_folders(folder: Path) -> dict[str, str]:
    (folder / "empty").mkdir()
    (folder / "one").mkdir()
    pictures(folder / "one" / "only", 3, 100)
    (folder / "half").mkdir()
    two_classes(folder / "half" / "train")
    (folder / "short.txt").write_text("short")
    (folder / "notes").mkdir()
    (folder / "notes" / "a.md").write_text("a" * 5000)
    return {
        "images": "task 'images' needs the path of its data: write images:/path/to/data",
        "cifar10:": "task 'cifar10' needs the path of its data",
        "text:/no/such/file": "task 'text': '/no/such/file' does not exist; expected: an existing path",
        f"images:{folder}/empty": "is empty; expected: a folder for each of at least 2 classes",
        f"images:{folder}/one": "holds only/; expected: a folder for each of at least 2 classes",
        f"images:{folder}/half": "holds train/; expected: .* or train/ and val/",
        f"images:{folder}/short.txt": "is not a folder; expected",
        f"cifar10:{folder}/one": "holds only/; expected: the official batches",
        f"text:{folder}/short.txt": "has 5 bytes of text; expected: a text file, or a folder with .txt files, of",
        f"text:{folder}/notes": "holds a.md; expected: a text file",
        f"digits:{folder}": "task 'digits' has its own data and takes no path: write digits",
    }


def test_another_folder_is_refused_in_one_line(tmp_path: Path) -> None:
    for given, message in refused_folders(tmp_path).items():
        with pytest.raises(UsageError, match=message) as caught:
            tasks.find(given)
        assert "\n" not in str(caught.value)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    folder = two_classes(tmp_path / "x")
    (folder / "dark" / "003.png").write_bytes(b"no image")
    with pytest.raises(UsageError, match=r"003.png' cannot be read: UnidentifiedImageError; expected: an image"):
        tasks.probe(tasks.find(f"images:{folder}"))
    folder = cifar(tmp_path / "y", binary=True)
    (folder / "test_batch.bin").write_bytes(b"\x00" * 3074)
    with pytest.raises(UsageError, match=r"test_batch.bin' has 3074 bytes, which is not a multiple of 3073"):
        cifar10.images(folder)
    (folder / "test_batch.bin").write_bytes(b"\x0b" * 3073)
    with pytest.raises(UsageError, match="holds the labels 11 to 11"):
        cifar10.images(folder)
