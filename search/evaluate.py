"""An exported network beside the torch one, on images one at a time, as it is deployed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from search.data import Data
from search.formats import Array
from search.rng import generator
from search.weights import same_shape


def calibration(data: Data, size: int, n: int, seed: int) -> Array:
    """`n` training images (n, 1, C, size, size), drawn without replacement."""
    order = torch.randperm(len(data.train), generator=generator(seed, "calibration"))[:n]
    images, _ = data.train.fetch(order.tolist())
    array: Array = same_shape(images, size)[:, None].numpy()
    return array


def compare(
    network: nn.Module, run: Callable[[Array], Array], data: Data, size: int, n: int
) -> tuple[float, float, int]:
    """(accuracy of `network`, accuracy of `run`, images) on up to `n` test images, spread over the test set."""
    positions = np.unique(np.linspace(0, len(data.test) - 1, min(n, len(data.test))).astype(int))
    right, theirs, seen = 0, 0, 0
    network.eval()
    for position in positions.tolist():
        images, labels = data.test.fetch([position])
        if not len(labels):
            continue
        x = same_shape(images, size)
        with torch.no_grad():
            right += int(network(x).argmax(1)[0] == labels[0])
        theirs += int(run(x.numpy()).argmax(1)[0] == int(labels[0]))
        seen += 1
    return right / max(seen, 1), theirs / max(seen, 1), seen
