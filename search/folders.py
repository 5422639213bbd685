"""`parquet:DIR` and `imagefolder:DIR`: image folders on disk, read through Hugging Face `datasets`."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from search.augment import EVAL_CROP, PAD, RESIZED
from search.data import TEST, Data, DataError, Indices, InMemory, Reading, split_data, validation_share
from search.decode import CorruptImages, Decoded, Source, in_memory
from search.rows import DatasetRows, RowGroups, column_values

IN_MEMORY_BYTES = 512 * 2**20  # decoded images up to this size are kept; larger sets are decoded batch by batch
STREAM_BYTES = 4 * 2**30  # parquet files above this are read in place: `datasets` would copy them into its cache
SMALL_IMAGE = 64  # pixels: up to here images are shifted, above they are cropped anew each time, as for ImageNet
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target")
TEST_NAMES = ("test", "validation", "valid", "val")


def load_folder(
    kind: str, folder: Path, *, image_size: int, channels: int, seed: int, reading: Reading | None = None
) -> Data:
    """The images under `folder`. Raises DataError: no files, no image column, no label column, no images."""
    reading, where = reading or Reading(), f"{kind}:{folder}"
    if channels not in (1, 3):
        raise DataError(f"{where}: images have 1 or 3 channels, the space takes {channels}")
    files = _parquet_files(folder) if kind == "parquet" else {}
    size = sum(path.stat().st_size for paths in files.values() for path in paths)
    _same_columns(files, where)
    streamed = bool(files) and (size > STREAM_BYTES if reading.stream is None else reading.stream)
    splits = _row_groups(files) if streamed else _datasets(kind, folder, files)
    train = splits.get("train") or next(iter(splits.values()))
    test = next((splits[name] for name in TEST_NAMES if name in splits and splits[name] is not train), None)
    column, label = image_column(train.features, where), label_column(train.features, where)
    names = _class_names(train.features[label], train.values(label), label, where)
    corrupt = CorruptImages(where, reading.max_corrupt, reading.warn)
    kind_of_crop = reading.augmentation or (PAD if image_size <= SMALL_IMAGE else RESIZED)
    keep = kind_of_crop == PAD and not streamed and reading.stream is not True

    def source(rows: Rows, what: str) -> tuple[InMemory | Decoded, Indices]:
        if column not in rows.features or label not in rows.features:
            raise DataError(f"{where}: the {what} split has no column '{column}' or '{label}'")
        labels = _labels(rows.values(label), label, names, where)
        decoded = Decoded(
            rows.source(column),
            labels,
            image_size=image_size,
            channels=channels,
            centre=1.0 if kind_of_crop == PAD else EVAL_CROP,
            corrupt=corrupt,
            workers=reading.workers,
        )
        if not keep or len(labels) * channels * image_size**2 > IN_MEMORY_BYTES:
            return decoded, labels
        images, kept = in_memory(decoded)
        if not len(kept):
            raise DataError(f"{where}: none of the {len(labels)} {what} images can be decoded{corrupt.first}")
        return InMemory(images, labels[kept]), labels[kept]

    held = None
    train_source = source(train, "training")
    if reading.validation_images is not None:
        n = len(train_source[1])
        held = validation_share(n if test is not None else n - round(n * TEST), reading.validation_images)
    return split_data(
        where,
        train_source,
        None if test is None else source(test, "test"),
        names,
        seed=seed,
        flip=True,
        validation=held,
        augmentation=kind_of_crop,
    )


class Rows(Protocol):
    """One split as its columns: `features` by name, all `values` of one, and where the images of one lie."""

    @property
    def features(self) -> Any: ...

    def values(self, column: str) -> list[Any]: ...

    def source(self, column: str) -> Source: ...


@dataclass(frozen=True)
class _DatasetSplit:
    """A Hugging Face dataset; `files` are (path, rows) of its parquet files."""

    rows: Any
    files: list[tuple[str, int]]

    @property
    def features(self) -> Any:
        return self.rows.features

    def values(self, column: str) -> list[Any]:
        return list(self.rows[column])

    def source(self, column: str) -> Source:
        return DatasetRows(self.rows, column, self.files)


@dataclass(frozen=True)
class _ParquetSplit:
    """Parquet files read in place."""

    files: list[Path]
    features: Any

    def values(self, column: str) -> list[Any]:
        return column_values(self.files, column)

    def source(self, column: str) -> Source:
        return RowGroups(self.files, column)


def _parquet_files(folder: Path) -> dict[str, list[Path]]:
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*.parquet")):
        parts = path.relative_to(folder).as_posix().lower()
        files.setdefault(next((n for n in TEST_NAMES if n in parts), "train"), []).append(path)
    if not files:
        raise DataError(f"parquet:{folder}: no *.parquet file in this folder")
    return files


def _same_columns(files: dict[str, list[Path]], where: str) -> None:
    """Raise DataError naming a file that cannot be read, or whose columns or kind of labels are not those of most."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[Path, tuple[str, ...]] = {}
    for path in (path for paths in files.values() for path in paths):
        try:
            columns[path] = tuple(sorted(_described(field) for field in pq.read_schema(path)))
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{where}: {path} cannot be read: {error}") from error
    usual = max(columns.values(), key=list(columns.values()).count, default=())
    for path, names in columns.items():
        if names != usual:
            raise DataError(
                f"{where}: {path} has columns {_few(names)}, other files have {_few(usual)}: "
                "keep the files of one data set, and no others, in the folder"
            )


def _described(field: Any) -> str:
    """A column's name; of a label's also what it holds, since `datasets` would make text of numbers without a word."""
    import pyarrow as pa

    if field.name not in LABEL_COLUMNS:
        return str(field.name)
    held = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    text = pa.types.is_string(held) or pa.types.is_large_string(held)
    return f"{field.name} ({'numbers' if pa.types.is_integer(held) else 'text' if text else held})"


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _row_groups(files: dict[str, list[Path]]) -> dict[str, Rows]:
    import pyarrow.parquet as pq
    from datasets import Features

    return {n: _ParquetSplit(paths, Features.from_arrow_schema(pq.read_schema(paths[0]))) for n, paths in files.items()}


def _datasets(kind: str, folder: Path, files: dict[str, list[Path]]) -> dict[str, Rows]:
    import datasets
    import pyarrow.parquet as pq

    datasets.disable_progress_bars()
    try:
        with _quietly():
            if kind == "imagefolder":
                loaded = datasets.load_dataset("imagefolder", data_dir=str(folder))
                return {name: _DatasetSplit(rows, []) for name, rows in loaded.items()}
            paths = {name: [str(path) for path in paths] for name, paths in files.items()}
            loaded = datasets.load_dataset("parquet", data_files=paths)
        counts = {name: [(path, pq.read_metadata(path).num_rows) for path in paths[name]] for name in paths}
        return {name: _DatasetSplit(rows, counts[name]) for name, rows in loaded.items()}
    except Exception as error:  # `datasets` wraps what its readers raise in classes of many libraries
        cause: BaseException = error
        while cause.__cause__ is not None:  # the outermost only says that an error occurred
            cause = cause.__cause__
        why = " ".join(str(cause).split())[:300]
        raise DataError(f"{kind}:{folder}: cannot be read: {type(cause).__name__}: {why}") from error


@contextmanager
def _quietly() -> Iterator[None]:
    """`datasets` logs what it raises too, over many lines: not here."""
    logger = logging.getLogger("datasets")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)


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


def _class_names(feature: Any, every: list[Any], label: str, where: str) -> tuple[str, ...]:
    if type(feature).__name__ == "ClassLabel":
        return tuple(map(str, feature.names))
    values = _distinct(every)
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


def _labels(values: list[Any], label: str, names: tuple[str, ...], where: str) -> Indices:
    index = {name: i for i, name in enumerate(names)}
    try:
        labels = [value if isinstance(value, int) else index[value] for value in values]
    except KeyError as error:
        raise DataError(f"{where}: label {error} is in no training image") from None
    if any(not 0 <= value < len(names) for value in labels):
        raise DataError(f"{where}: a label in '{label}' is not among the {len(names)} classes of the training images")
    return np.asarray(labels, dtype=np.int64)
