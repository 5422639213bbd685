"""From a runtime's profile to the time of each kernel inside its network, and to its row in a table. Times nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from latency.op_base import Op
from latency.stats import Floats, median_ci
from latency.table import Row

MIN_NETWORKS = 10  # from which what a call takes besides its kernels is told
LEAST = 0.2  # of what the profile says of a kernel that is its own at least


def kernel_seconds(
    profiles: Sequence[Sequence[Sequence[float]]], walls_s: Sequence[float]
) -> tuple[list[Floats], float]:
    """For each network (kernels, inferences) seconds of its kernels, which with the seconds that a call takes besides,
    returned too, sum to its wall time.

    `profiles`: seconds of each kernel in each inference, of each network; `walls_s`: seconds of each network without
    the profile. Between two kernels the runtime spends time that the profile does not show, and noting a kernel takes
    time that the profile does show, about the same for all: wall = a * sum of the profile + b * kernels + c, with a, b
    and c by relative least squares over the networks. b may be below zero. c, what a call takes however few kernels
    it runs, may not, and is no more than half of the shortest call: it is looked for where networks are many.
    """
    times = [np.asarray(p, dtype=np.float64) for p in profiles]
    sums, wall = np.array([float(np.median(t.sum(axis=0))) for t in times]), np.asarray(walls_s, dtype=np.float64)
    rate, each_s, call_s = 1.0, 0.0, 0.0
    if len(wall) > 1:
        design = np.column_stack([sums, [float(len(t)) for t in times], np.ones(len(wall))]) / wall[:, None]
        if len(wall) >= MIN_NETWORKS:
            (rate, each_s, call_s), *_ = np.linalg.lstsq(design, np.ones(len(wall)), rcond=None)
            call_s = float(np.clip(call_s, 0.0, 0.5 * wall.min()))
        (rate, each_s), *_ = np.linalg.lstsq(design[:, :2], 1.0 - call_s / wall, rcond=None)
    found = []
    for t, w in zip(times, wall, strict=True):
        full = np.maximum(rate * t + each_s, LEAST * t)
        found.append(np.asarray(full / full.sum(axis=0) * (w - call_s), dtype=np.float64))
    return found, call_s


def kernel_row(op: Op, samples: Sequence[Floats], session: int) -> Row:
    """The row of a kernel from its times wherever it occurs: each occurrence counts alike, by its median.

    The interval is that over occurrences where there are several, else that of its samples.
    """
    each = np.array([trimmed_mean(s) for s in samples])
    joined = np.concatenate(samples)
    middle = float(each.mean())
    if len(each) >= 3:
        half = 1.96 * float(each.std(ddof=1)) / math.sqrt(len(each))
    else:
        low, high = median_ci(joined) if len(joined) >= 6 else (float(joined.min()), float(joined.max()))
        half = max((high - low) / 2, 5e-7 / math.sqrt(len(joined)))
    half = min(half, 0.5 * middle)
    return Row(
        str(op), "op", len(joined), middle, middle - half, middle + half, float(np.percentile(joined, 10)),
        float(joined.min()), 0.0, ("in_context",), session,
    )  # fmt: skip


def trimmed_mean(samples: Floats) -> float:
    """The mean of the middle 60 %: whole microseconds average out, what the host did to a run does not count."""
    ordered = np.sort(samples)
    cut = int(0.2 * len(ordered))
    return float(ordered[cut : len(ordered) - cut].mean())
