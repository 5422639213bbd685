"""Encoded images in files of their own, in rows of a Hugging Face dataset, or in the row groups of parquet files."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from search.split import DataError, Indices

CACHE_BYTES = 2**30  # of row groups held at once


class DatasetRows:
    """Column `column` of a Hugging Face dataset, of cells {"bytes", "path"}; `files` and their row counts name rows."""

    def __init__(self, rows: Any, column: str, files: list[tuple[str, int]]) -> None:
        from datasets import Image

        self._rows, self._column, self._files = rows.cast_column(column, Image(decode=False)), column, files

    def encoded(self, index: int) -> bytes:
        """The cell's bytes, or those of the file it names."""
        cell = self._rows[index][self._column]
        if cell is None or (cell["bytes"] is None and cell["path"] is None):
            raise OSError("there is no image in the row")
        content: bytes = Path(cell["path"]).read_bytes() if cell["bytes"] is None else cell["bytes"]
        return content

    def name(self, index: int) -> str:
        """The image's file, or parquet file and row."""
        if self._files:
            return row_name(self._files, index)
        cell = self._rows[index][self._column]
        return str((cell or {}).get("path") or f"row {index}")


def row_name(files: list[tuple[str, int]], index: int) -> str:
    """`FILE row N` of the row that is `index` counted through all `files` (path, rows)."""
    for path, rows in files:
        if index < rows:
            return f"{path} row {index}"
        index -= rows
    return f"row {index} after the last"


class RowGroups:
    """Parquet files read a row group at a time: nothing is copied to disk, and memory holds CACHE_BYTES of groups.

    `group_of` (n,) is the group of each row and `window` how many groups a shuffle may mix: half of those that fit,
    so that the window being read and the next both do.
    """

    def __init__(self, files: list[Path], column: str, cache_bytes: int = CACHE_BYTES) -> None:
        import pyarrow.parquet as pq

        self._column, self._lock = column, threading.Lock()
        self._groups: list[tuple[Path, int]] = []
        self._files: list[tuple[str, int]] = []
        sizes, largest = [], 1
        for path in files:
            meta = pq.read_metadata(path)
            self._files.append((str(path), meta.num_rows))
            for i in range(meta.num_row_groups):
                self._groups.append((path, i))
                sizes.append(meta.row_group(i).num_rows)
                largest = max(largest, meta.row_group(i).total_byte_size)
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self.group_of: Indices = np.repeat(np.arange(len(sizes)), sizes).astype(np.int64)
        self.capacity = max(2, cache_bytes // largest)
        self.window = self.capacity // 2
        self._held: OrderedDict[int, Any] = OrderedDict()
        self._loading: dict[int, threading.Lock] = {}

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def held(self) -> int:
        """Row groups in memory."""
        return len(self._held)

    def encoded(self, index: int) -> bytes:
        """The bytes of the image in row `index`, counted through all files."""
        group = int(self.group_of[index])
        cell = self._group(group)[int(index - self._starts[group])].as_py()
        content = cell.get("bytes") if isinstance(cell, dict) else cell
        if content is None:
            raise OSError("there is no image in the row")
        return bytes(content)

    def name(self, index: int) -> str:
        """Parquet file and row."""
        return row_name(self._files, index)

    def _group(self, group: int) -> Any:
        with self._lock:
            if group in self._held:
                self._held.move_to_end(group)
                return self._held[group]
            mine = self._loading.setdefault(group, threading.Lock())
        with mine:  # one thread reads a group; the others that want it wait
            with self._lock:
                if group in self._held:
                    return self._held[group]
            column = self._read(group)
            with self._lock:
                self._held[group] = column
                while len(self._held) > self.capacity:
                    self._held.popitem(last=False)
                self._loading.pop(group, None)
        return column

    def _read(self, group: int) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        path, number = self._groups[group]
        try:
            with pq.ParquetFile(path) as file:
                return file.read_row_group(number, columns=[self._column]).column(0).combine_chunks()
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path}: row group {number} cannot be read: {error}") from None


def windowed_order(groups: Indices, window: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """A permutation of positions in which only `window` groups are mixed at a time: groups (n,) of each position.

    Groups are shuffled, taken `window` at a time, and the positions of those are shuffled together.
    """
    distinct, which = np.unique(groups, return_inverse=True)
    rank = rng.permutation(len(distinct))[which]
    return np.lexsort((rng.random(len(groups)), rank // window)).astype(np.int64)


def column_values(files: list[Path], name: str) -> list[Any]:
    """All values of a (small) column of parquet files. Raises DataError naming the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    values: list[Any] = []
    for path in files:
        try:
            values += pq.read_table(path, columns=[name]).column(name).to_pylist()
        except (OSError, KeyError, pa.ArrowException) as error:
            raise DataError(f"{path}: column '{name}' cannot be read: {error}") from None
    return values
