"""Counter-based randomness: every draw is a function of (seed, stream, counters); resuming needs no RNG state."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive_seed(seed: int, *stream: str | int) -> int:
    """A 63-bit seed for the draws of `stream`, e.g. ("alpha", step). Stable across processes and versions."""
    text = ":".join(map(str, (seed, *stream)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *stream: str | int) -> torch.Generator:
    """A fresh CPU generator for the draws of `stream`."""
    return torch.Generator().manual_seed(derive_seed(seed, *stream))


@contextmanager
def seeded(seed: int, *stream: str | int) -> Iterator[None]:
    """Run code that draws from torch's global CPU generator (initialisers) reproducibly; its state is put back."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, *stream))
        yield
