"""`parquet:DIR` and `imagefolder:DIR`: image folders on disk, read through Hugging Face `datasets`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from search.data import Data, DataError, Indices, InMemory, split_data

IN_MEMORY_BYTES = 512 * 2**20  # decoded images up to this size are kept; larger sets are decoded batch by batch
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target")
TEST_NAMES = ("test", "validation", "valid", "val")


class Decoded:
    """Rows of a Hugging Face dataset as (float image (C, S, S) in [0, 1], label), decoded when asked for."""

    def __init__(self, rows: Any, column: str, labels: Indices, image_size: int, channels: int) -> None:
        self.rows, self.column, self.labels = rows, column, labels
        self.image_size, self.channels = image_size, channels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int, /) -> tuple[torch.Tensor, int]:
        return self.pixels(index).float() / 255, int(self.labels[index])

    def pixels(self, index: int) -> torch.Tensor:
        """uint8 (C, S, S): the centre square, scaled. Raises DataError naming the image that cannot be decoded."""
        from PIL import Image

        try:
            image = self.rows[index][self.column].convert("RGB" if self.channels == 3 else "L")
        except (OSError, AttributeError, SyntaxError) as error:
            raise DataError(f"image {index} of column '{self.column}' cannot be decoded: {error}") from None
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.resize(
            (self.image_size, self.image_size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side)
        )
        array = np.asarray(image, dtype=np.uint8).reshape(self.image_size, self.image_size, -1)
        return torch.from_numpy(array.transpose(2, 0, 1).copy())


def load_folder(kind: str, folder: Path, *, image_size: int, channels: int, seed: int) -> Data:
    """The images under `folder`. Raises DataError: no files, no image column, no label column, no images."""
    if channels not in (1, 3):
        raise DataError(f"{kind}:{folder}: images have 1 or 3 channels, the space takes {channels}")
    splits = _read(kind, folder)
    train_rows = splits.get("train") or next(iter(splits.values()))
    test_rows = next((splits[name] for name in TEST_NAMES if name in splits and splits[name] is not train_rows), None)
    where = f"{kind}:{folder}"
    column, label = image_column(train_rows.features, where), label_column(train_rows.features, where)
    names = _class_names(train_rows, label, where)

    def source(rows: Any, what: str) -> tuple[InMemory | Decoded, Indices]:
        from datasets import Image

        if column not in rows.column_names or label not in rows.column_names:
            raise DataError(f"{where}: the {what} split has no column '{column}' or '{label}'")
        labels = _labels(rows, label, names, where)
        decoded = Decoded(rows.cast_column(column, Image()), column, labels, image_size, channels)
        if len(labels) * channels * image_size**2 > IN_MEMORY_BYTES:
            return decoded, labels
        return InMemory(torch.stack([decoded.pixels(i) for i in range(len(labels))]), labels), labels

    return split_data(
        where,
        source(train_rows, "training"),
        None if test_rows is None else source(test_rows, "test"),
        names,
        seed=seed,
        flip=True,
    )


def _read(kind: str, folder: Path) -> dict[str, Any]:
    import datasets

    datasets.disable_progress_bars()
    try:
        if kind == "imagefolder":
            return dict(datasets.load_dataset("imagefolder", data_dir=str(folder)))
        files: dict[str, list[str]] = {}
        for path in sorted(folder.rglob("*.parquet")):
            parts = path.relative_to(folder).as_posix().lower()
            name = next((n for n in TEST_NAMES if n in parts), "train")
            files.setdefault(name, []).append(str(path))
        if not files:
            raise DataError(f"parquet:{folder}: no *.parquet file in this folder")
        return dict(datasets.load_dataset("parquet", data_files=files))
    except DataError:
        raise
    except Exception as error:  # `datasets` wraps what its readers raise in classes of many libraries
        raise DataError(f"{kind}:{folder}: cannot be read: {type(error).__name__}: {error}") from error


def image_column(features: Any, where: str) -> str:
    """The column with images: of type Image, or a struct with `bytes`, as the hub's parquet files have."""
    for name, feature in features.items():
        if type(feature).__name__ == "Image" or (isinstance(feature, dict) and "bytes" in feature):
            return str(name)
    raise DataError(f"{where}: no image column (type Image, or a struct with `bytes`); columns: {', '.join(features)}")


def label_column(features: Any, where: str) -> str:
    """The column with labels: by its usual name, else the only one of type ClassLabel."""
    named = [name for name in LABEL_COLUMNS if name in features]
    typed = [str(name) for name, feature in features.items() if type(feature).__name__ == "ClassLabel"]
    if named or typed:
        return (named or typed)[0]
    raise DataError(
        f"{where}: no label column; columns: {', '.join(features)}. "
        f"Name it one of {', '.join(LABEL_COLUMNS)}, or sort images into one folder a class"
    )


def _class_names(rows: Any, label: str, where: str) -> tuple[str, ...]:
    feature = rows.features[label]
    if type(feature).__name__ == "ClassLabel":
        return tuple(map(str, feature.names))
    values = _distinct(rows[label])
    if all(isinstance(value, int) for value in values):
        if values and (values[0] < 0 or values[-1] >= 100_000):
            raise DataError(f"{where}: labels in '{label}' run from {values[0]} to {values[-1]}; count from 0")
        return tuple(map(str, range(values[-1] + 1 if values else 0)))
    if all(isinstance(value, str) for value in values):
        return tuple(values)
    raise DataError(f"{where}: column '{label}' holds neither whole numbers nor names (is a label missing?)")


def _distinct(values: Iterable[Any]) -> list[Any]:
    distinct = set(values)
    return sorted(distinct, key=lambda value: (str(type(value)), value)) if None not in distinct else [None]


def _labels(rows: Any, label: str, names: tuple[str, ...], where: str) -> Indices:
    values = list(rows[label])
    index = {name: i for i, name in enumerate(names)}
    try:
        labels = [value if isinstance(value, int) else index[value] for value in values]
    except KeyError as error:
        raise DataError(f"{where}: label {error} is in no training image") from None
    if any(not 0 <= value < len(names) for value in labels):
        raise DataError(f"{where}: a label in '{label}' is not among the {len(names)} classes of the training images")
    return np.asarray(labels, dtype=np.int64)
