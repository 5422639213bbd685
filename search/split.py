"""A dataset and indices into it: what batches are drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch

from devices.errors import UserError
from search.rng import generator

Indices = npt.NDArray[np.int64]


class DataError(UserError):
    """Data that cannot be found, read or used."""


class ImageDataset(Protocol):
    """What a map-style torch Dataset of (image, label) offers; images are float (C, H, W)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@runtime_checkable
class Decodes(Protocol):
    """A dataset that decodes images when asked: search.decode.Decoded.

    Where `group_of` (n,) is given, images of one group are read together, and `window` groups are mixed at a time.
    """

    group_of: Indices | None
    window: int

    def decode_many(self, indices: Indices, draws_NA4: torch.Tensor | None, /) -> tuple[torch.Tensor, Indices]: ...


@dataclass(frozen=True)
class InMemory:
    """uint8 images (n, C, H, W), decoded and resized once, and labels (n,)."""

    images: torch.Tensor
    labels: Indices

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int, /) -> tuple[torch.Tensor, int]:
        return self.images[index].float() / 255, int(self.labels[index])


def as_float(images: torch.Tensor) -> torch.Tensor:
    """float32 in [0, 1] of uint8; floats as they are."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


@dataclass(frozen=True)
class Split:
    """Some images of a dataset, and their labels."""

    dataset: ImageDataset
    indices: Indices
    labels: Indices

    def __len__(self) -> int:
        return len(self.indices)

    def fetch(self, positions: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (n, C, H, W) float32 in [0, 1] and labels (n,) int64 at `positions`; corrupt images are left out."""
        images, kept = self.read(np.asarray(positions, dtype=np.int64))
        return as_float(images), self._labels(positions, kept)

    def read(self, positions: Indices, draws_NA4: torch.Tensor | None = None) -> tuple[torch.Tensor, Indices]:
        """Images as they are kept (uint8, or floats of a user's own), and which of `positions` they are.

        `draws_NA4` asks for random resized crops, from datasets that decode (search.decode).
        """
        chosen = self.indices[positions]
        if isinstance(self.dataset, Decodes):
            return self.dataset.decode_many(chosen, draws_NA4)
        if isinstance(self.dataset, InMemory):
            images = self.dataset.images[torch.from_numpy(chosen)]
        else:
            images = torch.stack([torch.as_tensor(self.dataset[int(i)][0], dtype=torch.float32) for i in chosen])
        return images, np.arange(len(positions))

    def batch(self, positions: Indices, draws_NA4: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """`read` with labels (n,), filled up to n images by repeating the first where some are corrupt."""
        images, kept = self.read(positions, draws_NA4)
        if not len(kept):
            raise DataError(f"none of the {len(positions)} images of a batch can be decoded")
        if len(kept) < len(positions):
            again = np.resize(np.arange(len(kept)), len(positions))
            images, kept = images[torch.from_numpy(again)], kept[again]
        return images, self._labels(positions, kept)

    @property
    def mixed_groups(self) -> int:
        """How many groups an epoch mixes at a time; 0 where it mixes all images."""
        return self.dataset.window if isinstance(self.dataset, Decodes) and self.dataset.group_of is not None else 0

    def order(self, seed: int, stream: str, epoch: int) -> Indices:
        """The positions of this split as epoch `epoch` of `stream` takes them: a permutation."""
        draws = generator(seed, stream, "epoch", epoch)
        if isinstance(self.dataset, Decodes) and self.dataset.group_of is not None:
            from search.rows import windowed_order

            rng = np.random.default_rng(draws.initial_seed())
            return windowed_order(self.dataset.group_of[self.indices], self.dataset.window, rng)
        return torch.randperm(len(self), generator=draws).numpy()

    def _labels(self, positions: Sequence[int] | Indices, kept: Indices) -> torch.Tensor:
        return torch.from_numpy(self.labels[np.asarray(positions, dtype=np.int64)[kept]])
