"""Images decoded when asked for, by threads, in the order asked for; those that cannot be are told and left out.

Decoders release the interpreter's lock, so threads are as good as processes here, and share the file caches.
"""

from __future__ import annotations

import io
import math
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch

from search import distributed
from search.augment import centre_box, crop_box
from search.split import DataError, Indices


class Source(Protocol):
    """Where encoded images lie."""

    def encoded(self, index: int) -> bytes:
        """The bytes of image `index`. Raises OSError."""
        ...

    def name(self, index: int) -> str:
        """What to call it in a message: its file, or file and row."""
        ...


@dataclass
class CorruptImages:
    """The images of a set that could not be decoded; more than `limit` of them end the run.

    Of several processes (torchrun), each reads its part: all count together, and the first to meet an image tells it.
    """

    where: str
    limit: int
    warn: Callable[[str], None]
    names: dict[str, str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def first(self) -> str:
        """`: NAME (why)` of the first, else nothing."""
        return next((f": {name} ({why})" for name, why in self.names.items()), "")

    def add(self, name: str, why: str) -> None:
        """Count one, once. Raises DataError beyond the limit."""
        with self._lock:
            if name in self.names:
                return
            self.names[name] = why
            count, first = distributed.count_once(f"corrupt in {self.where}", name, len(self.names))
        if not first:  # another process tells it, or ends the run over it
            return
        if count > self.limit:
            raise DataError(
                f"{self.where}: {name} cannot be decoded ({why}); that makes {count}, and --max-corrupt is {self.limit}"
            )
        self.warn(f"{name} cannot be decoded ({why}): left out, {count} so far of --max-corrupt {self.limit}")


class Decoded:
    """A map-style dataset of (float image (C, S, S) in [0, 1], label)."""

    def __init__(
        self,
        source: Source,
        labels: Indices,
        *,
        image_size: int,
        channels: int,
        centre: float,
        corrupt: CorruptImages,
        workers: int,
    ) -> None:
        """`centre`: the share of the shorter side that an image is cut to where no random crop is asked for."""
        self.source, self.labels, self.corrupt, self.centre = source, labels, corrupt, centre
        self.shape = (channels, image_size, image_size)
        self.group_of: Indices | None = getattr(source, "group_of", None)
        self.window: int = getattr(source, "window", 1)
        self._pool = ThreadPoolExecutor(workers, "decode") if workers > 0 else None
        self._chunks = max(workers, 1)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int, /) -> tuple[torch.Tensor, int]:
        images, kept = self.decode_many(np.array([index]))
        if not len(kept):
            raise DataError(f"{self.source.name(index)} cannot be decoded")
        return images[0].float() / 255, int(self.labels[index])

    def decode_many(self, indices: Indices, draws_NA4: torch.Tensor | None = None) -> tuple[torch.Tensor, Indices]:
        """uint8 images (k, C, S, S), and which of `indices` (n,) they are: k positions from 0, ascending.

        With `draws_NA4`: random resized crops. Raises DataError beyond the limit of corrupt images.
        """
        out = torch.empty(len(indices), *self.shape, dtype=torch.uint8)
        positions = np.array_split(np.arange(len(indices)), min(self._chunks, max(len(indices), 1)))

        def decode(part: Indices) -> list[int]:
            return [int(i) for i in part if self._into(out, int(i), int(indices[i]), draws_NA4)]

        parts = map(decode, positions) if self._pool is None else self._pool.map(decode, positions)
        kept = np.array([i for part in parts for i in part], dtype=np.int64)
        return (out if len(kept) == len(indices) else out[torch.from_numpy(kept)]), kept

    def _into(self, out: torch.Tensor, position: int, index: int, draws_NA4: torch.Tensor | None) -> bool:
        try:
            encoded = self.source.encoded(index)
        except DataError:
            raise
        except (OSError, ValueError) as error:
            return self._leave_out(index, error)
        try:
            pixels = self._pixels(encoded, None if draws_NA4 is None else draws_NA4[position])
        except (DataError, MemoryError):
            raise
        except Exception as error:  # a decoder given nonsense raises anything: TypeError of a TIFF, struct.error, ...
            return self._leave_out(index, error)
        out[position] = pixels
        return True

    def _leave_out(self, index: int, error: Exception) -> bool:
        self.corrupt.add(self.source.name(index), why_not(error))
        return False

    def _pixels(self, encoded: bytes, draws_A4: torch.Tensor | None) -> torch.Tensor:
        from PIL import Image

        channels, height, width = self.shape
        mode = "RGB" if channels == 3 else "L"
        image: Image.Image = Image.open(io.BytesIO(encoded))
        full_w, full_h = image.size
        box = centre_box(full_w, full_h, self.centre) if draws_A4 is None else crop_box(full_w, full_h, draws_A4)
        shrink = min((box[2] - box[0]) / width, (box[3] - box[1]) / height)
        if shrink >= 2:  # a JPEG decoder can leave out what will be averaged away: a half, a quarter, an eighth
            image.draft(mode, (math.ceil(full_w / shrink), math.ceil(full_h / shrink)))
        by = image.width / full_w, image.height / full_h
        image = image.convert(mode)
        scaled = (box[0] * by[0], box[1] * by[1], min(box[2] * by[0], image.width), min(box[3] * by[1], image.height))
        image = image.resize((width, height), Image.Resampling.BILINEAR, box=scaled)
        array = np.asarray(image, dtype=np.uint8).reshape(height, width, channels)
        return torch.from_numpy(array.transpose(2, 0, 1).copy())


def why_not(error: Exception) -> str:
    """What a decoder says, on one line, without the address of the bytes in memory that some add; its class if odd."""
    text = re.sub(r" *<_io\.BytesIO object at 0x[0-9a-f]+>", "", " ".join(str(error).split()))
    usual = text and isinstance(error, (OSError, ValueError, SyntaxError, EOFError))
    return (text if usual else f"{type(error).__name__}: {text}".removesuffix(": "))[:120]


def in_memory(decoded: Decoded) -> tuple[torch.Tensor, Indices]:
    """All images that can be decoded, uint8 (k, C, S, S), and their indices. Raises DataError as `decode_many` does."""
    return decoded.decode_many(np.arange(len(decoded)))
