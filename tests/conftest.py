"""What all tests share."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

# As in search.run: waiting threads sleep soon, or two test processes on two cores hinder each other.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

import pytest

#: What keeps a test's adb to itself: no look-out for phones on the network or for emulators.
QUIET_ADB = {"ADB_MDNS_AUTO_CONNECT": "0", "ADB_MDNS": "0", "ADB_LOCAL_TRANSPORT_MAX_PORT": "0"}
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of published measurements (METRONOME_DATA, or ../shared/data); skips where it is absent."""
    folder = Path(os.environ.get("METRONOME_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no measured data: {folder} does not exist (set METRONOME_DATA)")
    return folder


@pytest.fixture(scope="session", autouse=True)
def adb_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Whatever calls adb in a test finds a server port of the tests' own, and no phone of the developer's."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**QUIET_ADB, "ANDROID_ADB_SERVER_PORT": str(port)}.items():
            patch.setenv(name, value)
        patch.delenv("ANDROID_SERIAL", raising=False)
        yield port
        with socket.socket() as asked:
            asked.settimeout(1.0)
            if asked.connect_ex(("127.0.0.1", port)) == 0:  # someone has started it
                asked.sendall(b"0009host:kill")
