"""How alpha learns: one file each, found by name. A strategy makes one alpha step from one batch, nothing else."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from devices.errors import UserError, did_you_mean

if TYPE_CHECKING:
    import torch

    from search.state import SearchState

DEFAULT = "proxyless_g"


class StrategyError(UserError):
    """A strategy that does not exist."""


class Strategy(Protocol):
    """One way to update alpha."""

    def step(self, state: SearchState, batch: tuple[torch.Tensor, torch.Tensor]) -> dict[str, float]:
        """Update `state.supernet.alpha_LK` from validation images (n, C, H, W) and labels (n,); return metrics.

        Weights, batch-norm statistics and the multiplier are left as they are. Metrics have at least `valid_loss`.
        """
        ...


def names() -> list[str]:
    """The strategies there are: the files of this folder."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem != "__init__")


def load(name: str) -> Strategy:
    """The strategy of search/strategies/NAME.py, made by its `make()`. Raises StrategyError listing the names."""
    if name not in names():
        raise StrategyError(f"unknown strategy '{name}': {did_you_mean(name, names())}known: {', '.join(names())}")
    strategy: Strategy = importlib.import_module(f"search.strategies.{name}").make()
    return strategy
