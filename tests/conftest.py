"""What all tests share."""

from __future__ import annotations

import os
from pathlib import Path

# As in search.run: waiting threads sleep soon, or two test processes on two cores hinder each other.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of published measurements (METRONOME_DATA, or ../shared/data); skips where it is absent."""
    folder = Path(os.environ.get("METRONOME_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no measured data: {folder} does not exist (set METRONOME_DATA)")
    return folder
