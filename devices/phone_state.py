"""What a phone says of itself: properties, core clusters, clocks, heat, battery, storage. Text -> facts, or PhoneError.

Formats: Android's getprop, dumpsys thermalservice and battery, toybox df, and the kernel's cpufreq files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from devices.adb_states import PhoneError

#: Prints everything `read_facts` needs, in one shell call. Kernels before 4.3 have no policy folders.
FACTS = r"""
echo @@props; getprop
echo @@clusters
for p in /sys/devices/system/cpu/cpufreq/policy* /sys/devices/system/cpu/cpu[0-9]*/cpufreq; do
  [ -r $p/cpuinfo_max_freq ] && echo "$(cat $p/related_cpus)|$(cat $p/cpuinfo_max_freq)|$(cat $p/scaling_governor)"
done
echo @@thermal; dumpsys thermalservice
echo @@battery; dumpsys battery
echo @@storage; df -k /data/local/tmp
echo @@tools; for t in timeout taskset sha256sum; do command -v $t >/dev/null && echo $t; done
echo @@end
"""


@dataclass(frozen=True)
class Cluster:
    """Cores that share a clock."""

    cpus: tuple[int, ...]
    max_khz: int
    governor: str

    @property
    def mask(self) -> int:
        """One bit a core."""
        return sum(1 << cpu for cpu in self.cpus)


@dataclass(frozen=True)
class Heat:
    """`status` is Android's thermal status: 0 none, 1 light, 2 moderate, 3 severe, ... 6 shutdown; None: not told."""

    status: int | None
    celsius: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Battery:
    """None where the phone does not tell."""

    percent: int | None = None
    celsius: float | None = None
    charging: bool | None = None


@dataclass(frozen=True)
class Facts:
    """One phone, as it was when it was asked."""

    props: dict[str, str]
    clusters: tuple[Cluster, ...]  # slowest first
    heat: Heat
    battery: Battery
    free_bytes: int | None
    tools: frozenset[str]

    @property
    def model(self) -> str:
        """As sold: `Pixel 2`."""
        return self.props.get("ro.product.model", "unknown")

    @property
    def abis(self) -> tuple[str, ...]:
        """What it runs, the best first: `arm64-v8a`, `armeabi-v7a`, ..."""
        listed = self.props.get("ro.product.cpu.abilist") or self.props.get("ro.product.cpu.abi", "")
        return tuple(filter(None, listed.split(",")))

    @property
    def sdk(self) -> int:
        """The API level; 0 where it is not told."""
        text = self.props.get("ro.build.version.sdk", "")
        return int(text) if re.fullmatch(r"[0-9]{1,4}", text) else 0


def read_facts(text: str) -> Facts:
    """The facts in the output of FACTS. Raises PhoneError on a cut output or a line that cannot be."""
    parts = dict(re.findall(r"^@@(\w+)\n(.*?)(?=^@@)", text.replace("\r", ""), re.M | re.S))
    missing = [n for n in ("props", "clusters", "thermal", "battery", "storage", "tools") if n not in parts]
    if missing:
        raise PhoneError(f"the phone's account of itself was cut: {', '.join(missing)} missing")
    return Facts(
        parse_props(parts["props"]),
        parse_clusters(parts["clusters"]),
        parse_heat(parts["thermal"]),
        parse_battery(parts["battery"]),
        parse_free(parts["storage"]),
        frozenset(parts["tools"].split()),
    )


def parse_props(text: str) -> dict[str, str]:
    """`[name]: [value]` lines; values may run over lines, which are left out."""
    return dict(re.findall(r"^\[([^\]\n]+)\]: \[(.*)\]$", text, re.M))


def parse_clusters(text: str) -> tuple[Cluster, ...]:
    """`cpus|max_khz|governor` lines, each cluster once, slowest first. Raises PhoneError."""
    found: dict[tuple[int, ...], Cluster] = {}
    for line in filter(None, map(str.strip, text.split("\n"))):
        m = re.fullmatch(r"([\d ,-]*)\|(\d{1,12})\|(.*)", line, re.A)
        cpus = _cpus(m[1]) if m else ()
        if m is None or not cpus:
            raise PhoneError(f"core clusters: cannot read '{line[:80]!r}'")
        found[cpus] = Cluster(cpus, int(m[2]), m[3].strip() or "not readable")
    return tuple(sorted(found.values(), key=lambda c: (c.max_khz, c.cpus)))


def _cpus(text: str) -> tuple[int, ...]:
    """`4 5 6 7` or `4-7`, as kernels write it."""
    cpus: set[int] = set()
    for part in re.split(r"[ ,]+", text.strip()):
        first, _, last = part.partition("-")
        if not re.fullmatch(r"[0-9]{1,3}(-[0-9]{1,3})?", part) or int(last or first) > 255:
            return ()
        cpus.update(range(int(first), int(last or first) + 1))
    return tuple(sorted(cpus))


def parse_heat(text: str) -> Heat:
    """`dumpsys thermalservice`. Its absence (Android 9 and older) is `status=None`; a status that cannot be raises."""
    told = re.search(r"^\s*Thermal Status: *(\S+)", text, re.M)
    status = None
    if told:
        if not re.fullmatch(r"[0-6]", told[1], re.A):
            raise PhoneError(f"thermal status {told[1][:20]!r} is none of 0..6")
        status = int(told[1])
    now = text.partition("Current temperatures from HAL")[2] or text  # before it stands a cache of older values
    rows = re.findall(r"Temperature\{mValue=(-?\d+(?:\.\d+)?), mType=-?\d+, mName=([^,}]+),", now, re.A)
    return Heat(status, {name: float(value) for value, name in rows})


def parse_battery(text: str) -> Battery:
    """`dumpsys battery`: level, temperature in tenths of a degree, and whether any power source is on."""
    values = dict(re.findall(r"^\s*([\w ]+?): *(\S+)\s*$", text, re.M))

    def number(name: str) -> int | None:
        value = values.get(name, "")
        return int(value) if re.fullmatch(r"-?\d{1,6}", value, re.A) else None

    tenths = number("temperature")
    powered = [v for k, v in values.items() if k.endswith(" powered")]
    return Battery(number("level"), None if tenths is None else tenths / 10, "true" in powered if powered else None)


def parse_free(text: str) -> int | None:
    """Free bytes of the last line of `df -k`; None where it is not to be read."""
    for line in reversed(text.strip().split("\n")):
        cells = line.split()
        if len(cells) >= 6 and re.fullmatch(r"\d{1,15}", cells[3], re.A):
            return int(cells[3]) * 1024
    return None


def cluster_mask(clusters: Iterable[Cluster], policy: str, threads: int) -> int | None:
    """The cores to run on: the `fastest`, `slowest` or `middle` cluster, `all`, or None where clusters are not told.

    Raises PhoneError for an unknown policy, and where the cluster has fewer cores than `threads`.
    """
    known = tuple(clusters)
    if policy == "all" or not known:
        return None
    places = {"slowest": 0, "middle": (len(known) - 1) // 2 if len(known) < 3 else len(known) // 2, "fastest": -1}
    if policy not in places:
        raise PhoneError(f"cluster = '{policy}'; one of {', '.join([*places, 'all'])}")
    chosen = known[places[policy]]
    if len(chosen.cpus) < threads:
        sizes = ", ".join(f"{len(c.cpus)} cores of {c.max_khz / 1e6:.2f} GHz" for c in known)
        raise PhoneError(
            f"threads = {threads}, but the {policy} cluster has {len(chosen.cpus)} cores ({sizes}): lower threads, or "
            "set cluster or mask in the device file"
        )
    return chosen.mask


def parse_time_in_state(text: str) -> dict[int, int]:
    """kHz -> ticks of 10 ms, of `cpufreq/policyN/stats/time_in_state`; lines that are none are left out."""
    return {int(f): int(t) for f, t in re.findall(r"^\s*(\d{4,9})\s+(\d{1,18})\s*$", text, re.M | re.A)}


def effective_mhz(before: dict[int, int], after: dict[int, int]) -> float | None:
    """The mean clock between two readings, weighted by time; None where no time passed or clocks are not told."""
    ticks = {khz: after[khz] - before.get(khz, 0) for khz in after}
    total = sum(ticks.values())
    if total <= 0 or min(ticks.values()) < 0:
        return None
    return sum(khz * n for khz, n in ticks.items()) / total / 1e3
