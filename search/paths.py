"""Paths of weight steps: one network of the supernet at a time."""

from __future__ import annotations

import torch

from search import gates
from search.rng import generator
from search.state import SearchState


def sampled_path(state: SearchState) -> list[int]:
    """The path of this step, drawn from alpha."""
    return gates.sample_path(state.supernet.logits(), generator(state.seed, "path", state.step))


def along_sampled(state: SearchState, x: torch.Tensor) -> torch.Tensor:
    """Logits (n, classes) of the path drawn from alpha."""
    y: torch.Tensor = state.supernet(x, sampled_path(state))
    return y


def along_fair(state: SearchState, x: torch.Tensor) -> torch.Tensor:
    """Logits (n, classes) of this step's uniform, strictly fair path, whatever alpha."""
    y: torch.Tensor = state.supernet(x, gates.fair_path(state.supernet.counts(), state.seed, state.step))
    return y
