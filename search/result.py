"""What a run comes to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from latency.space import Architecture
from search.costs import Floats


@dataclass(frozen=True)
class Result:
    """What a run found. Accuracies are shares of the test images; `probs_LK` are the final probabilities.

    `budgets` says of each budget name, unit, limit and cost; `measured_s` is there where the network was timed.
    """

    architecture: Architecture
    random_architecture: Architecture
    target_s: float
    predicted_s: float
    random_predicted_s: float
    expected_s: float
    in_window: bool
    test_accuracy: float
    random_test_accuracy: float
    probs_LK: Floats
    network: nn.Module
    measured_s: float | None
    budgets: list[dict[str, Any]]
