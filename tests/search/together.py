"""A program for torchrun: `search.run` with the fake predictor. A stop may be asked for: see test_distributed."""

from __future__ import annotations

import os
import sys

import torch

import latency.predictor
from search import distributed, run
from search.trainer import SearchPhase
from tests.search.conftest import FakePredictor


def main() -> int:
    """Arguments are those of search.run."""
    torch.set_num_threads(1)
    latency.predictor.load_predictor = lambda path: FakePredictor()  # type: ignore[assignment]
    advance = SearchPhase.advance

    def meddle(self: SearchPhase) -> dict:
        row = advance(self)
        first_start, one = not distributed.restarted(), distributed.rank() == 1
        if first_start and one and self.step == int(os.environ.get("DIE_AT", "-1")):
            os.kill(os.getpid(), 9)
        if one and self.step == int(os.environ.get("DRIFT_AT", "-1")):
            with torch.no_grad():
                self.state.supernet.alpha_LK[0, 0] += 1e-12
        return row

    SearchPhase.advance = meddle  # type: ignore[method-assign]
    return run.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
