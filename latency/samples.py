"""What is timed, the samples taken of it, and what they come to. Pure: nothing is run here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from devices.base import FEWEST
from latency.stats import (
    Floats,
    half_to_half,
    half_width,
    median_ci,
    round_factors,
    time_mean_half_width,
    widened,
)

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Workload:
    """One thing to time: an op or a whole network. `make` builds its module when it is needed."""

    key: str
    kind: str  # "op" or "network"
    make: Callable[[], nn.Module]
    input_shape: tuple[int, ...]


@dataclass(frozen=True)
class Measurement:
    """The outcome for one workload; `samples_s` are raw seconds per inference, `factors` those of their rounds.

    `scale` is half the 95 % interval, as a fraction, of what all workloads have in common: the host's speed.
    """

    key: str
    kind: str
    samples_s: Floats
    factors: Floats
    flags: tuple[str, ...] = ()
    scale: float = 0.0

    @property
    def corrected_s(self) -> Floats:
        """(n,) seconds per inference with the factor of each round divided out."""
        return self.samples_s / self.factors

    @property
    def median_s(self) -> float:
        """Median of the corrected samples."""
        return float(np.median(self.corrected_s))

    @property
    def ci_s(self) -> tuple[float, float]:
        """95 % confidence interval of the median, at the host's mean speed: that of the samples, widened by `scale`."""
        return widened(median_ci(self.corrected_s), self.median_s, self.scale)

    @property
    def half_width(self) -> float:
        """Half the interval that the samples alone give, as a fraction: what more rounds narrow."""
        return half_width(self.corrected_s)

    @property
    def drift(self) -> float:
        """Second half of the rounds against the first, as a fraction."""
        return half_to_half(self.corrected_s)


@dataclass
class Progress:
    """What has been sampled so far: key -> (round, seconds) pairs. Grows; a resumed run starts from the saved one.

    `told` are results that stand and cannot follow later rounds: key -> (n, median of its first n samples, in seconds).
    They were told of the first `told_rounds`.
    """

    samples: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    next_round: int = 0
    told: dict[str, tuple[int, float]] = field(default_factory=dict)
    told_rounds: int = 0

    def add(self, key: str, round_: int, seconds: float) -> None:
        """One sample of one workload in one round."""
        self.samples.setdefault(key, []).append((round_, seconds))
        self.next_round = max(self.next_round, round_ + 1)

    def tell(self, measurement: Measurement) -> None:
        """`measurement` stands: what is told later is on its scale."""
        self.told_rounds = self.told_rounds or self.next_round
        self.told[measurement.key] = (len(measurement.samples_s), measurement.median_s)

    def factors(self) -> tuple[dict[str, Floats], float]:
        """key -> (n,) the factor that applies to each of its samples, from the other workloads of the round.

        Their common scale is the host's mean speed, or that of `told`: what is told later has to compare with it.
        Also returns half its 95 % interval, as a fraction.
        """
        matrix = np.full((len(self.samples), self.next_round), np.nan)
        for row, pairs in zip(matrix, self.samples.values(), strict=True):
            for round_, seconds in pairs:
                row[round_] = seconds
        factors_WR = round_factors(matrix)
        rows = zip(factors_WR, self.samples.items(), strict=True)
        factors = {key: row[[r for r, _ in pairs]] for row, (key, pairs) in rows}
        ratios = [
            np.median([seconds for _, seconds in self.samples[key][:n]] / factors[key][:n]) / median_s
            for key, (n, median_s) in self.told.items()
            if key in factors
        ]
        if ratios:
            factors = {key: f * np.median(ratios) for key, f in factors.items()}
        seen = ~np.isnan(matrix[:, : self.told_rounds] if ratios else matrix)
        speeds = [float(np.median(factors_WR[at, r])) for r, at in enumerate(seen.T) if at.sum() >= FEWEST]
        return factors, time_mean_half_width(np.array(speeds))

    def measurements(self, workloads: Sequence[Workload], labels: Mapping[str, str]) -> list[Measurement]:
        """The outcome for each of `workloads` as it stands, flagged with its label."""
        factors, scale = self.factors() if workloads else ({}, 0.0)
        return [
            Measurement(
                w.key, w.kind, np.array([s for _, s in self.samples[w.key]]), factors[w.key], (labels[w.key],), scale
            )
            for w in workloads
        ]
