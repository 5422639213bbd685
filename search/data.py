"""Images and labels: the embedded digits, folders of parquet files or images, or any torch Dataset.

Whatever the source, the search sees `Data`: train / search-validation / test as a dataset and indices into it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from devices.errors import did_you_mean
from search.augment import KINDS as AUGMENTATIONS
from search.augment import PAD, RESIZED, Augmentation
from search.rng import derive_seed
from search.split import DataError, ImageDataset, Indices, InMemory, Split

__all__ = ["Data", "DataError", "ImageDataset", "InMemory", "Indices", "Reading", "Split", "from_datasets", "load_data"]

KINDS = ("digits", "parquet:DIR", "imagefolder:DIR")
MAX_CORRUPT = 10  # images that may fail to decode before the run ends
TEST = 0.2  # carved out of the images where the source has no test split


@dataclass(frozen=True)
class Data:
    """The three splits. `flip`: a mirrored image keeps its label. `classes` are names, in order of label.

    `augmentation`: pad-crop, or resized-crop where the images are decoded anew each time.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    flip: bool = False
    augmentation: str = PAD

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        known: tuple[int, int, int] | None = getattr(self.train.dataset, "shape", None)
        if known is not None:
            return known
        images, _ = self.train.fetch([0])
        return (images.shape[1], images.shape[2], images.shape[3])

    def augmentation_of(self, cutout: float = 0.0) -> Augmentation:
        """How training images of this set are varied."""
        return Augmentation(self.augmentation, self.flip, cutout)

    def summary(self) -> dict[str, Any]:
        """What a resumed run must find again."""
        return {
            "name": self.name,
            "image_shape": list(self.image_shape),
            "classes": len(self.classes),
            "train": len(self.train),
            "validation": len(self.validation),
            "test": len(self.test),
            "augmentation": self.augmentation,
            "mixed_groups": self.train.mixed_groups,
        }


@dataclass(frozen=True)
class Reading:
    """How folders of images are read: `workers` threads decode; `stream` or None: never, always, or by size."""

    augmentation: str | None = None
    validation_images: int | None = None
    workers: int = 0
    max_corrupt: int = MAX_CORRUPT
    stream: bool | None = None
    warn: Callable[[str], None] = lambda text: None

    def __post_init__(self) -> None:
        if self.augmentation is not None and self.augmentation not in AUGMENTATIONS:
            Augmentation(self.augmentation)
        for name in ("validation_images", "workers", "max_corrupt"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise DataError(f"--{name.replace('_', '-')} {value}: at least 0")


def load_data(spec: str, *, image_size: int, channels: int = 3, seed: int = 0, reading: Reading | None = None) -> Data:
    """The data that `--data` names, at `image_size` x `image_size`. Raises DataError, which says what is wrong."""
    if not 1 <= image_size <= 4096:
        raise DataError(f"--image-size {image_size}: between 1 and 4096 pixels")
    kind, _, folder = spec.partition(":")
    reading = reading or Reading()
    if spec == "digits":
        if reading.augmentation == RESIZED:
            raise DataError("--augmentation resized-crop: the digits are 8x8 pixels; use pad-crop")
        return _digits(image_size, channels, seed, reading.validation_images)
    if kind in ("parquet", "imagefolder") and folder:
        if not Path(folder).is_dir():
            raise DataError(f"--data {spec}: no folder {folder}")
        from search.folders import load_folder

        return load_folder(kind, Path(folder), image_size=image_size, channels=channels, seed=seed, reading=reading)
    raise DataError(f"--data {spec}: {did_you_mean(spec, KINDS)}known: {', '.join(KINDS)}")


def validation_share(n_train: int, images: int | None = None) -> float:
    """The share of training images that alpha learns on: `images` of them, or the paper's number where that is known.

    arXiv 1812.00332: 50,000 of ImageNet's 1,281,167, 5,000 of CIFAR-10's 50,000 (sections 4.1 and 4.2); a fifth of
    fewer than 10,000.
    """
    if images is None and n_train < 10_000:
        return 0.2
    if images is None:
        images = min(n_train // 10, 50_000 if n_train >= 500_000 else 5_000)
    if images >= n_train:
        raise DataError(f"--validation-images {images}: there are {n_train} training images")
    return images / max(n_train, 1)


def from_datasets(train: ImageDataset, test: ImageDataset, *, seed: int = 0, validation: float | None = None) -> Data:
    """Data of a user's own: torch datasets of (image (C, H, W), label). Labels are read once, item by item.

    Images must come out the same each time for a resumed run to repeat exactly: random transforms belong elsewhere.
    Raises DataError where an item is not such a pair.
    """
    train_labels, test_labels = labels_of(train, "train"), labels_of(test, "test")
    n_classes = int(max(train_labels.max(), test_labels.max())) + 1
    classes = tuple(map(str, getattr(train, "classes", range(n_classes))))
    return split_data(
        getattr(train, "name", type(train).__name__),
        (train, train_labels),
        (test, test_labels),
        classes,
        seed=seed,
        validation=validation,
    )


def labels_of(dataset: ImageDataset, what: str) -> Indices:
    """The labels of `dataset`. Raises DataError naming the item that is not (image (C, H, W), whole number)."""
    if len(dataset) == 0:
        raise DataError(f"the {what} dataset is empty")
    if isinstance(dataset, InMemory):
        return dataset.labels
    first = dataset[0]
    pair = isinstance(first, (tuple, list)) and len(first) == 2
    if not pair or not isinstance(first[0], torch.Tensor) or first[0].ndim != 3:
        what_it_is = f"a {type(first).__name__}" + (f" whose first is {_shape(first[0])}" if pair else "")
        raise DataError(f"the {what} dataset must give (image tensor (C, H, W), label) pairs; item 0 is {what_it_is}")
    try:
        labels = np.array([int(dataset[i][1]) for i in range(len(dataset))], dtype=np.int64)
    except (TypeError, ValueError) as error:
        raise DataError(f"the {what} dataset has a label that is not a whole number: {error}") from None
    if labels.min() < 0:
        raise DataError(f"the {what} dataset has label {labels.min()}; labels count from 0")
    return labels


def _shape(value: object) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else f"a {type(value).__name__}"


def split_data(
    name: str,
    train: tuple[ImageDataset, Indices],
    test: tuple[ImageDataset, Indices] | None,
    classes: tuple[str, ...],
    *,
    seed: int,
    flip: bool = False,
    validation: float | None = None,
    augmentation: str = PAD,
) -> Data:
    """`Data` from labelled sources; without `test`, a stratified fifth of `train` becomes it.

    `validation`: the share of the rest that alpha learns on, by default `validation_share`.
    """
    dataset, labels = train
    rest = np.arange(len(labels))
    if test is None:
        rest, held = stratified(labels, TEST, derive_seed(seed, "test split"))
        test_split = Split(dataset, held, labels[held])
    else:
        test_split = Split(test[0], np.arange(len(test[1])), test[1])
    validation = validation_share(len(rest)) if validation is None else validation
    kept, held = stratified(labels[rest], validation, derive_seed(seed, "validation split"))
    parts = Split(dataset, rest[kept], labels[rest[kept]]), Split(dataset, rest[held], labels[rest[held]])
    for what, part in (("training", parts[0]), ("search-validation", parts[1]), ("test", test_split)):
        if len(part) < 2:
            raise DataError(f"{name}: {len(part)} {what} images after splitting; more images are needed")
    if len(set(labels.tolist())) < 2:
        raise DataError(f"{name}: all images have the same label; there is nothing to learn")
    return Data(name, parts[0], parts[1], test_split, classes, flip, augmentation)


def stratified(labels: Indices, fraction: float, seed: int) -> tuple[Indices, Indices]:
    """Sorted (kept, held) indices with `fraction` of each class held, so that both have its share of every class."""
    rng = np.random.default_rng(seed)
    held = [rng.permutation(np.flatnonzero(labels == c)) for c in np.unique(labels)]
    held_all = np.sort(np.concatenate([h[: round(len(h) * fraction)] for h in held])).astype(np.int64)
    return np.setdiff1d(np.arange(len(labels)), held_all).astype(np.int64), held_all


def batch(
    split: Split, size: int, seed: int, stream: str, step: int, *, augment: bool = False, flip: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Batch `step` of an endless pass over `split`, on the CPU: (n, C, H, W) and (n,). What a `Loader` gives, once."""
    from search.loader import Loader

    return Loader(split, size, seed, stream, Augmentation(PAD, flip) if augment else None).batch(step)


def _digits(image_size: int, channels: int, seed: int, validation_images: int | None) -> Data:
    """scikit-learn's 1,797 handwritten digits, 8x8 grey, scaled up (UCI optical recognition of handwritten digits)."""
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    grey = torch.from_numpy(bunch.images).float()[:, None] * (255 / 16)
    scaled = functional.interpolate(grey, size=(image_size, image_size), mode="bilinear", align_corners=False)
    images = scaled.round().clamp(0, 255).to(torch.uint8).repeat(1, channels, 1, 1)
    labels = np.asarray(bunch.target, dtype=np.int64)
    rest = len(labels) - round(len(labels) * TEST)
    return split_data(
        "digits",
        (InMemory(images, labels), labels),
        None,
        tuple(map(str, range(10))),
        seed=seed,
        validation=None if validation_images is None else validation_share(rest, validation_images),
    )
