"""What keeps the final training from overfitting: dropout before the classifier, and an average of the weights."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from search import distributed
from search.rng import generator

Tensors = tuple[torch.Tensor, ...] | list[torch.Tensor]


class Dropout:
    """Inverted dropout on what the last Linear takes, drawn from (seed, step): resumed or computed again, the same.

    A hook, so that the network's modules and the names of its weights are those without it; silent in eval mode.
    """

    def __init__(self, network: nn.Module, share: float, seed: int) -> None:
        self.share, self.seed, self.step = share, seed, 0
        if share > 0:
            classifier = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
            classifier.register_forward_pre_hook(self)

    def __call__(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
        """The inputs (n, features) with `share` of them zero and the others scaled up, while training."""
        if not module.training:
            return None
        (x,) = inputs
        n = len(x) * distributed.world()  # of several processes, each its part of what one would draw
        draws = torch.rand(n, *x.shape[1:], generator=generator(self.seed, "dropout", self.step))
        kept = draws[distributed.slice_of(n)] >= self.share
        return (x * kept.to(x) / (1 - self.share),)


def average_of(network: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of the weights and statistics of `network`, which it copies.

    The decay of update n is min(decay, (1 + n) / (10 + n)): a short training is not averaged with its first weights.
    """

    def update(averages: Tensors, now: Tensors, n: torch.Tensor | int) -> None:
        weight = 1 - min(decay, (1 + int(n)) / (10 + int(n)))
        for average, value in zip(averages, now, strict=True):
            if average.is_floating_point():
                average.lerp_(value.to(average.dtype), weight)
            else:
                average.copy_(value)

    return AveragedModel(network, multi_avg_fn=update, use_buffers=True)
