"""Networks compared by what they already know: accuracy with the supernet's weights, batch norm made their own.

The supernet's running statistics are a mix over all paths and fit no single network; ranking by them is close to
ranking at random (Single Path One-Shot, arXiv 1904.00420, section 3.4). A few batches of training images, run through
the network without a gradient, give its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from search import data
from search.data import Data, Split
from search.supernet import Supernet

BATCHES = 10  # of training images for the statistics of one network
IMAGES = 2_000  # validation images at most
BATCH = 128


def supernet_accuracies(
    supernet: Supernet, networks: Sequence[Sequence[int]], data_: Data, *, batch_size: int, seed: int
) -> list[float]:
    """Validation accuracy of each network (L indices) with the supernet's weights and batch-norm statistics of its own.

    All see the same BATCHES batches of training images and the same validation images, IMAGES at most. The supernet
    comes back as it was.
    """
    device = supernet.alpha_LK.device
    batches = [data.batch(data_.train, batch_size, seed, "calibration", step)[0].to(device) for step in range(BATCHES)]
    return [_accuracy(supernet, network, batches, data_.validation) for network in networks]


def _accuracy(supernet: Supernet, network: Sequence[int], batches: Sequence[torch.Tensor], split: Split) -> float:
    positions = range(0, len(split), -(-len(split) // IMAGES))
    right = seen = 0
    with torch.no_grad(), own_statistics(supernet):
        for x in batches:
            supernet(x, network)
        supernet.eval()
        for first in range(0, len(positions), BATCH):
            x, y = split.fetch(positions[first : first + BATCH])
            seen += len(y)  # corrupt images are left out
            right += int((supernet(x.to(supernet.alpha_LK.device), network).argmax(1).cpu() == y).sum())
    return right / max(seen, 1)


@contextmanager
def own_statistics(module: nn.Module) -> Iterator[None]:
    """Batch norms start anew and average whatever runs in train mode, evenly; at the end all is as it was before."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    kept = [({name: b.clone() for name, b in m.named_buffers()}, m.momentum) for m in norms]
    was_training = module.training
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch: the cumulative average
    module.train()
    try:
        yield
    finally:
        for norm, (buffers, momentum) in zip(norms, kept, strict=True):
            norm.momentum = momentum
            for name, buffer in norm.named_buffers():
                buffer.copy_(buffers[name])
        module.train(was_training)
