"""Images and labels: the embedded digits, folders of parquet files or images, or any torch Dataset.

Whatever the source, the search sees `Data`: train / search-validation / test as a dataset and indices into it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from devices.errors import UserError, did_you_mean
from search.rng import derive_seed, generator

KINDS = ("digits", "parquet:DIR", "imagefolder:DIR")
VALIDATION = 0.2  # of the training images: what alpha learns on
TEST = 0.2  # carved out of the images where the source has no test split
Indices = npt.NDArray[np.int64]


class DataError(UserError):
    """Data that cannot be found, read or used."""


class ImageDataset(Protocol):
    """What a map-style torch Dataset of (image, label) offers; images are float (C, H, W)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True)
class Split:
    """Some images of a dataset, and their labels."""

    dataset: ImageDataset
    indices: Indices
    labels: Indices

    def __len__(self) -> int:
        return len(self.indices)

    def fetch(self, positions: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (n, C, H, W) float32 and labels (n,) int64 at `positions` of this split."""
        chosen = self.indices[np.asarray(positions, dtype=np.int64)]
        if isinstance(self.dataset, InMemory):
            images = self.dataset.images[torch.from_numpy(chosen)].float() / 255
        else:
            images = torch.stack([torch.as_tensor(self.dataset[int(i)][0], dtype=torch.float32) for i in chosen])
        return images, torch.from_numpy(self.labels[np.asarray(positions, dtype=np.int64)])


@dataclass(frozen=True)
class Data:
    """The three splits. `flip`: a mirrored image keeps its label. `classes` are names, in order of label."""

    name: str
    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    flip: bool = False

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        images, _ = self.train.fetch([0])
        return (images.shape[1], images.shape[2], images.shape[3])

    def summary(self) -> dict[str, Any]:
        """What a resumed run must find again."""
        return {
            "name": self.name,
            "image_shape": list(self.image_shape),
            "classes": len(self.classes),
            "train": len(self.train),
            "validation": len(self.validation),
            "test": len(self.test),
        }


@dataclass(frozen=True)
class InMemory:
    """uint8 images (n, C, H, W), decoded and resized once, and labels (n,)."""

    images: torch.Tensor
    labels: Indices

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int, /) -> tuple[torch.Tensor, int]:
        return self.images[index].float() / 255, int(self.labels[index])


def load_data(spec: str, *, image_size: int, channels: int = 3, seed: int = 0) -> Data:
    """The data that `--data` names, at `image_size` x `image_size`. Raises DataError, which says what is wrong."""
    if not 1 <= image_size <= 4096:
        raise DataError(f"--image-size {image_size}: between 1 and 4096 pixels")
    kind, _, folder = spec.partition(":")
    if spec == "digits":
        return _digits(image_size, channels, seed)
    if kind in ("parquet", "imagefolder") and folder:
        if not Path(folder).is_dir():
            raise DataError(f"--data {spec}: no folder {folder}")
        from search.folders import load_folder

        return load_folder(kind, Path(folder), image_size=image_size, channels=channels, seed=seed)
    raise DataError(f"--data {spec}: {did_you_mean(spec, KINDS)}known: {', '.join(KINDS)}")


def from_datasets(train: ImageDataset, test: ImageDataset, *, seed: int = 0, validation: float = VALIDATION) -> Data:
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
    validation: float = VALIDATION,
) -> Data:
    """`Data` from labelled sources; without `test`, a stratified fifth of `train` becomes it."""
    dataset, labels = train
    rest = np.arange(len(labels))
    if test is None:
        rest, held = stratified(labels, TEST, derive_seed(seed, "test split"))
        test_split = Split(dataset, held, labels[held])
    else:
        test_split = Split(test[0], np.arange(len(test[1])), test[1])
    kept, held = stratified(labels[rest], validation, derive_seed(seed, "validation split"))
    parts = Split(dataset, rest[kept], labels[rest[kept]]), Split(dataset, rest[held], labels[rest[held]])
    for what, part in (("training", parts[0]), ("search-validation", parts[1]), ("test", test_split)):
        if len(part) < 2:
            raise DataError(f"{name}: {len(part)} {what} images after splitting; more images are needed")
    if len(set(labels.tolist())) < 2:
        raise DataError(f"{name}: all images have the same label; there is nothing to learn")
    return Data(name, parts[0], parts[1], test_split, classes, flip)


def stratified(labels: Indices, fraction: float, seed: int) -> tuple[Indices, Indices]:
    """Sorted (kept, held) indices with `fraction` of each class held, so that both have its share of every class."""
    rng = np.random.default_rng(seed)
    held = [rng.permutation(np.flatnonzero(labels == c)) for c in np.unique(labels)]
    held_all = np.sort(np.concatenate([h[: round(len(h) * fraction)] for h in held])).astype(np.int64)
    return np.setdiff1d(np.arange(len(labels)), held_all).astype(np.int64), held_all


def batch(
    split: Split, size: int, seed: int, stream: str, step: int, *, augment: bool = False, flip: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Batch `step` (from 0) of an endless pass over `split`: (n, C, H, W) and (n,), a function of its arguments alone.

    Each epoch is a permutation of its own; what does not fill a batch is left out. A split smaller than `size` is
    the batch. Augmentation shifts each image by up to an eighth of its side and, with `flip`, mirrors half of them.
    """
    size = min(size, len(split))
    epoch, position = divmod(step, len(split) // size)
    order = torch.randperm(len(split), generator=generator(seed, stream, "epoch", epoch))
    x, y = split.fetch(order[position * size : (position + 1) * size].tolist())
    return (_augment(x, flip, generator(seed, stream, "augment", step)) if augment else x), y


def _augment(x: torch.Tensor, flip: bool, draws: torch.Generator) -> torch.Tensor:
    n, _, height, width = x.shape
    pad_y, pad_x = height // 8, width // 8
    padded = functional.pad(x, (pad_x, pad_x, pad_y, pad_y))
    dy = torch.randint(0, 2 * pad_y + 1, (n,), generator=draws)
    dx = torch.randint(0, 2 * pad_x + 1, (n,), generator=draws)
    mirrored = torch.rand(n, generator=draws) < 0.5
    rows = (dy[:, None] + torch.arange(height))[:, None, :, None]
    columns = torch.arange(width).expand(n, width)
    columns = torch.where(mirrored[:, None] & flip, width - 1 - columns, columns) + dx[:, None]
    return padded[
        torch.arange(n)[:, None, None, None],
        torch.arange(x.shape[1])[None, :, None, None],
        rows,
        columns[:, None, None, :],
    ]


def _digits(image_size: int, channels: int, seed: int) -> Data:
    """scikit-learn's 1,797 handwritten digits, 8x8 grey, scaled up (UCI optical recognition of handwritten digits)."""
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    grey = torch.from_numpy(bunch.images).float()[:, None] * (255 / 16)
    scaled = functional.interpolate(grey, size=(image_size, image_size), mode="bilinear", align_corners=False)
    images = scaled.round().clamp(0, 255).to(torch.uint8).repeat(1, channels, 1, 1)
    labels = np.asarray(bunch.target, dtype=np.int64)
    return split_data("digits", (InMemory(images, labels), labels), None, tuple(map(str, range(10))), seed=seed)
