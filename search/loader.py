"""Batches by step: read ahead by a thread, moved to the device, and augmented there."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from search import distributed
from search.augment import RESIZED, Augmentation, augment, crop_draws
from search.split import Decodes, Indices, Split, as_float

Batch = tuple[torch.Tensor, torch.Tensor]


class Loader:
    """An endless pass over a split. `batch(step)` is a function of (split, size, seed, stream, step) alone.

    Each epoch is a permutation of its own; what does not fill a batch is left out. A split smaller than `size` is the
    batch. Of several processes (torchrun), each reads and gets its part.
    Where images are decoded, the next batch is read while this one is used: the next by the distance of the last two
    steps asked for. What was read ahead and is not asked for is thrown away.
    """

    def __init__(
        self,
        split: Split,
        size: int,
        seed: int,
        stream: str,
        how: Augmentation | None = None,
        device: torch.device | str = "cpu",
        finish: Callable[[torch.Tensor, torch.Tensor], Batch] | None = None,
    ) -> None:
        """`how`: None for images as they are. `finish` is applied to the batch last (`Engine.to_device`)."""
        self.split, self.size, self.seed, self.stream, self.how = split, min(size, len(split)), seed, stream, how
        self.device, self._finish = torch.device(device), finish
        self._ahead = ThreadPoolExecutor(1, "read-ahead") if isinstance(split.dataset, Decodes) else None
        self._waiting: tuple[int, Future[Batch]] | None = None
        self._last: int | None = None
        self._order: tuple[int, Indices] = (-1, split.indices[:0])

    def batch(self, step: int) -> Batch:
        """Images (n, C, H, W) float32 and labels (n,) on the device. Raises DataError."""
        images, labels = self._read_or_wait(step)
        x, y = images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
        x = as_float(x)
        if self.how is not None:
            x = self._augmented(x, step)
        return (x, y) if self._finish is None else self._finish(x, y)

    def _augmented(self, x: torch.Tensor, step: int) -> torch.Tensor:
        how, mine = self.how, distributed.slice_of(self.size)
        assert how is not None
        if len(x) == self.size:
            return augment(x, how, self.seed, self.stream, step)
        whole = x.new_zeros(self.size, *x.shape[1:])  # draws are those of the batch that all processes have together
        whole[mine] = x
        return augment(whole, how, self.seed, self.stream, step)[mine]

    def _read_or_wait(self, step: int) -> Batch:
        if self._ahead is None:
            return self._read(step)
        waiting, self._waiting = self._waiting, None
        found = waiting[1] if waiting is not None and waiting[0] == step else self._ahead.submit(self._read, step)
        batch = found.result()
        stride = step - self._last if self._last is not None and step > self._last else 1
        self._last = step
        self._waiting = step + stride, self._ahead.submit(self._read, step + stride)
        return batch

    def _read(self, step: int) -> Batch:
        epoch, position = divmod(step, len(self.split) // self.size)
        if self._order[0] != epoch:
            self._order = epoch, self.split.order(self.seed, self.stream, epoch)
        positions = self._order[1][position * self.size : (position + 1) * self.size]
        resized = self.how is not None and self.how.kind == RESIZED
        draws = crop_draws(len(positions), self.seed, self.stream, step) if resized else None
        mine = distributed.slice_of(len(positions))
        images, labels = self.split.batch(positions[mine], draws if draws is None else draws[mine])
        if self.device.type == "cuda":
            images, labels = images.pin_memory(), labels.pin_memory()
        return images, labels
