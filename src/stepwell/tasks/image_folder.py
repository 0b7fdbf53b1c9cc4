"""Your images: `images:/path/to/folder`, one folder for each class as ImageNet has them.

With `train/` and `val/` (or `valid/`, `validation/`, `test/`) inside, these are the training and held-out images;
otherwise every fifth image of each class, in the order of the names, is held out. At most 5000 training and 2000
held-out images are read, evenly from every class.

An image is scaled to 36 pixels on its shorter side and cut to the middle 36 x 36; a training image is
then cut to 32 x 32 at a random place and mirrored at random. The network is that of the task `cifar10`.

Reference: O. Russakovsky et al., ImageNet large scale visual recognition challenge, 2015 (the layout of the folders).
"""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stepwell.errors import MissingExtra
from stepwell.tasks import augment
from stepwell.tasks.given_path import contents, digest, given_path, refused
from stepwell.tasks.task import Task

SUMMARY = "images in folders of classes, a small residual network with batch norm"
BATCH = 64
READ = 36  # pixels of a side, before the crop
HOLD_OUT_EVERY = 5
HELD_OUT_NAMES = ("val", "valid", "validation", "test")
MOST_TRAINED_ON, MOST_HELD_OUT = 5000, 2000
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".tif", ".tiff")
EXPECTED = "a folder for each of at least 2 classes with images in it, or train/ and val/ with such folders"

Files = list[tuple[Path, int]]  # an image and the number of its class


def classes_in(folder: Path) -> dict[str, list[Path]]:
    """Class -> its images in the order of their paths, for each folder in `folder` that holds images."""
    found = {}
    for place in sorted(folder.iterdir()):
        if place.is_dir() and not place.name.startswith("."):
            images = sorted(
                path
                for path in place.iterdir()
                if path.suffix.lower() in ENDINGS and not path.name.startswith(".") and path.is_file()
            )
            if images:
                found[place.name] = images
    return found


def split(path: Path) -> tuple[Files, Files, list[str]]:
    """Training images, held-out images and the names of the classes. Raises UsageError."""
    if not path.is_dir():
        raise refused("images", path, "is not a folder", EXPECTED)
    held_out_folder = next((path / name for name in HELD_OUT_NAMES if (path / name).is_dir()), None)
    if (path / "train").is_dir() != (held_out_folder is not None):  # not taken for classes
        raise refused("images", path, contents(path), EXPECTED)
    if held_out_folder is not None:
        train, held_out = classes_in(path / "train"), classes_in(held_out_folder)
        if set(held_out) - set(train):
            only = sorted(set(held_out) - set(train))[0]
            raise refused("images", held_out_folder, f"holds the class {only!r}", "only classes that train/ holds")
    else:
        whole = classes_in(path)
        for name, images in whole.items():
            if len(images) < 2:
                raise refused("images", path / name, "holds one image", "at least 2, one of them to be held out")
        last = [HOLD_OUT_EVERY if len(images) >= HOLD_OUT_EVERY else len(images) for images in whole.values()]
        held_out = {name: images[n - 1 :: n] for (name, images), n in zip(whole.items(), last, strict=True)}
        train = {
            name: [image for at, image in enumerate(images) if at % n != n - 1]
            for (name, images), n in zip(whole.items(), last, strict=True)
        }
    if len(train) < 2 or not held_out:
        raise refused("images", path, contents(path), EXPECTED)
    names = list(train)
    return _thinned(train, names, MOST_TRAINED_ON), _thinned(held_out, names, MOST_HELD_OUT), names


def _thinned(found: dict[str, list[Path]], names: list[str], most: int) -> Files:
    """At most about `most` images, evenly spread over each class, at least one of each."""
    share = min(1.0, most / sum(map(len, found.values())))
    kept: Files = []
    for name, images in found.items():
        count = max(1, math.floor(share * len(images)))
        kept += [(images[number * len(images) // count], names.index(name)) for number in range(count)]
    return kept


def decoded(files: Files) -> tuple[Tensor, Tensor]:
    """The images [n, 3, 36, 36], uint8, and their classes [n]. Raises UsageError for a file that is not an image."""
    image_of = _pillow()
    images = np.empty((len(files), READ, READ, 3), dtype=np.uint8)
    for at, (path, _) in enumerate(files):
        try:
            with image_of.open(path) as image:
                image.draft("RGB", (2 * READ, 2 * READ))  # a JPEG is decoded at a fraction of its size
                scale = READ / min(image.size)
                size = [max(READ, round(scale * side)) for side in image.size]
                small = image.convert("RGB").resize((size[0], size[1]), image_of.Resampling.BILINEAR)
        except Exception as error:  # a damaged image may raise anything
            raise refused("images", path, f"cannot be read: {type(error).__name__}", "an image") from None
        left, top = (size[0] - READ) // 2, (size[1] - READ) // 2
        images[at] = np.asarray(small.crop((left, top, left + READ, top + READ)))
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.tensor([label for _, label in files])


def _pillow() -> Any:
    """The module PIL.Image."""
    try:
        from PIL import Image
    except ImportError:
        raise MissingExtra("pillow", "tools", "the task 'images'") from None
    return Image


@lru_cache(maxsize=2)
def images(path: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images [n, 3, 36, 36] with classes; held-out images [m, 3, 32, 32] with classes; uint8, int64."""
    train, held_out, _ = split(path)
    x, y = decoded(train)
    test, test_y = decoded(held_out)
    return x, y, augment.center(test), test_y


def open_task(written: str) -> Task:
    """The task over the images in a folder. Raises UsageError, and MissingExtra without pillow."""
    path = given_path("images", written)
    train, held_out, names = split(path)
    _pillow()
    about = {
        "data": f"{written}: {len(names)} classes, {len(train)} images to train on, {len(held_out)} held out",
        "version of the data": digest(path, (file for file, _ in train + held_out)),
    }
    batch = min(BATCH, len(train))
    return augment.task("images", SUMMARY, len(names), lambda: images(path), lambda x: x, batch, 1000, about)
