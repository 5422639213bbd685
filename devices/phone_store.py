"""Files on a phone, named by their content: what is there is not pushed again, and only whole files get a name."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from devices.adb import Adb
from devices.adb_states import PhoneLost
from devices.benchmark_binary import digest

FOLDER = "/data/local/tmp/metronome"  # /sdcard is mounted noexec
_SHORT = 24  # hex digits of the sha256 that a name carries


class PhoneStore:
    """The files of this project on one phone: models in FOLDER/m, binaries in FOLDER."""

    def __init__(self, adb: Adb, has_sha256sum: bool) -> None:
        self._adb, self._has_sha256sum = adb, has_sha256sum
        self._there: set[str] | None = None

    def put(self, local: Path, prefix: str, suffix: str = "", executable: bool = False) -> str:
        """Have `local` on the phone; returns its name under FOLDER, prefix + digest + suffix.

        Raises PhoneUnavailable (storage full), PhoneError, PhoneLost.
        """
        name = f"{prefix}{digest(local)[:_SHORT]}{suffix}"
        if self._there is None:
            self._there = self._listing()
        if name not in self._there:
            part = f"{FOLDER}/part"
            try:
                self._adb.push(local, part)
            except BaseException:
                self._discard(part)
                raise
            self._adb.check(
                f"[ $(wc -c <{part}) = {local.stat().st_size} ] && chmod {'755' if executable else '644'} {part} && "
                f"mv {part} {FOLDER}/{name}"
            )
            self._there.add(name)
        return name

    def forget(self) -> None:
        """Look again at what is there: after the phone was away, it may have been wiped."""
        self._there = None

    def _discard(self, part: str) -> None:
        """Give the space of a half push back, where the phone is still there."""
        with contextlib.suppress(PhoneLost):
            self._adb.shell(f"rm -f {part}", 5.0)

    def _listing(self) -> set[str]:
        """What is on the phone. Where it has sha256sum, a file whose content is not what its name says is removed."""
        look = "for f in m/* benchmark_model-*; do [ -f $f ] && sha256sum $f; done"
        if not self._has_sha256sum:
            look = "ls m/* benchmark_model-* 2>/dev/null"
        text = self._adb.check(f"mkdir -p {FOLDER}/m && cd {FOLDER} && {{ {look}; true; }}", 120)
        if not self._has_sha256sum:
            return set(text.split())
        sums = re.findall(r"^([0-9a-f]{64}) [ *](\S+)$", text.replace("\r", ""), re.M)
        whole = {name for sha, name in sums if sha[:_SHORT] in name}
        bad = [name for _, name in sums if name not in whole]
        if bad:
            self._adb.check(f"cd {FOLDER} && rm -f {' '.join(bad)}")
        return whole
