"""The `benchmark_model` of the user: where it is looked for, and whether it fits the phone's processor."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from devices.base import DeviceUnavailable

#: e_machine of an ELF file (System V ABI) -> Android's name of the ABI.
_MACHINES = {0x03: "x86", 0x28: "armeabi-v7a", 0x3E: "x86_64", 0xB7: "arm64-v8a"}
#: What the TensorFlow Lite and LiteRT projects call their prebuilt files.
_PREBUILT = {"arm64-v8a": "android_aarch64_benchmark_model", "armeabi-v7a": "android_arm_benchmark_model"}


def cache_folder() -> Path:
    """Where the binary is looked for: $METRONOME_CACHE, else ~/.cache/metronome."""
    base = os.environ.get("METRONOME_CACHE")
    return Path(base) if base else Path.home() / ".cache" / "metronome"


def find_binary(option: str, abis: tuple[str, ...], name: str) -> Path:
    """The benchmark_model to use: `option` where it is given, else the first that lies in the cache folder.

    Raises DeviceUnavailable: none there, or one for another processor.
    """
    if option:
        path = Path(option).expanduser()
        if not path.is_file():
            raise DeviceUnavailable(f"--benchmark-model {option}: no such file")
        _check(path, abis)
        return path
    tried = [n for abi in abis for n in (f"benchmark_model-{abi}", _PREBUILT.get(abi, "")) if n] + ["benchmark_model"]
    for candidate in tried:
        path = cache_folder() / candidate
        if path.is_file():
            _check(path, abis)
            return path
    best = abis[0] if abis else "the phone's ABI"
    where = (
        f"download {_PREBUILT[best]} from https://ai.google.dev/edge/litert/models/measurement"
        if best in _PREBUILT
        else f"build TensorFlow's //tensorflow/lite/tools/benchmark:benchmark_model for {best}"
    )
    raise DeviceUnavailable(
        f"device {name} needs the program benchmark_model for {best}; looked for {', '.join(tried)} in "
        f"{cache_folder()}; {where} and put it there, or name it with --benchmark-model PATH"
    )


def _check(path: Path, abis: tuple[str, ...]) -> None:
    """Raise DeviceUnavailable where the file is built for a processor that the phone does not have."""
    abi = elf_abi(path)
    if abi is not None and abis and abi not in abis:
        raise DeviceUnavailable(
            f"{path} is built for {abi}, this phone runs {', '.join(abis)}: get the one for {abis[0]}"
        )


def elf_abi(path: Path) -> str | None:
    """Android's name of the processor that an ELF file is for; None for other files (a script)."""
    with path.open("rb") as file:
        head = file.read(20)
    if len(head) < 20 or head[:4] != b"\x7fELF":
        return None
    machine = int.from_bytes(head[18:20], "little" if head[5] == 1 else "big")
    return _MACHINES.get(machine, f"processor {machine:#x}")


def digest(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
