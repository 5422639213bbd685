"""The face that the loops of a run share: searching with a supernet, training one network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import nn

from latency.console import Report


class Phase(Protocol):
    """A loop that can stop between any two steps and go on."""

    @property
    def step(self) -> int:
        """Steps made."""
        ...

    @property
    def total(self) -> int:
        """Steps in all."""
        ...

    @property
    def advice(self) -> str:
        """What to do where the loss is no number."""
        ...

    @property
    def module(self) -> nn.Module:
        """What is trained."""
        ...

    def advance(self) -> dict[str, Any]:
        """Make one step; returns its row for metrics.jsonl. Raises Diverged."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers to go on from."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        ...


def run_phase(phase: Phase, write: Callable[[dict[str, Any]], None], tick: Callable[[], None], report: Report) -> None:
    """Advance to the end: `write` each row, then `tick`, which may save or raise to stop."""
    while phase.step < phase.total:
        row = phase.advance()
        write(row)
        report(phase.step, phase.total, f"{row['phase']} loss {row['loss']:.3f}")
        tick()
