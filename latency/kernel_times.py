"""From a runtime's profile to the time of each kernel inside its network, and to its row in a table. Times nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from latency.op_base import Op
from latency.stats import Floats
from latency.table import Row, TableError

#: Of a table of kernels: another number where the same seed draws other networks, kernels are described otherwise, or
#: their times are found otherwise.
DRAWING = 5
MIN_NETWORKS = 10  # from which what a call takes besides its kernels is told
UNSEEN_S = 5e-7  # half of what the profile counts in
LEAST = 0.2  # of what the profile says of a kernel that is its own at least


def require_drawing(path: Path, sessions: Sequence[Mapping[str, Any]]) -> None:
    """Raises TableError where a lot of kernels in the table's `sessions` is of another DRAWING."""
    if any("kernel_lot" in s and s.get("drawing") != DRAWING for s in sessions):
        raise TableError(
            f"{path} is of random networks as another version drew and described them: profile with --space kernels "
            "anew, into another file with --out or over it with --overwrite"
        )


def kernel_seconds(
    profiles: Sequence[Sequence[Sequence[float]]], walls_s: Sequence[float]
) -> tuple[list[Floats], float]:
    """For each network (kernels, some of the inferences) seconds of its kernels, whose means over inferences with the
    seconds that a call takes besides, returned too, sum to its wall time.

    `profiles`: seconds of each kernel in each inference, of each network; `walls_s`: seconds of each network without
    the profile. Between two kernels the runtime spends time that the profile does not show, and noting a kernel takes
    time that the profile does show, about the same for all: wall = a * sum of the profile + b * kernels + c, with a, b
    and c by relative least squares over the networks. b may be below zero. c, what a call takes however few kernels
    it runs, may not, and is no more than half of the shortest call: it is looked for where networks are many.

    The profile counts whole microseconds, which in the mean over inferences are no error, and in a median or a trimmed
    mean of kernels that take one or two are a large one. What the host did to a run is kept out by leaving out whole
    inferences.
    """
    times = [_undisturbed(np.asarray(p, dtype=np.float64)) for p in profiles]
    sums, wall = np.array([float(t.sum(axis=0).mean()) for t in times]), np.asarray(walls_s, dtype=np.float64)
    rate, each_s, call_s = 1.0, 0.0, 0.0
    if len(wall) > 1:
        design = np.column_stack([sums, [float(len(t)) for t in times], np.ones(len(wall))]) / wall[:, None]
        if len(wall) >= MIN_NETWORKS:
            (rate, each_s, call_s), *_ = np.linalg.lstsq(design, np.ones(len(wall)), rcond=None)
            call_s = float(np.clip(call_s, 0.0, 0.5 * wall.min()))
        (rate, each_s), *_ = np.linalg.lstsq(design[:, :2], 1.0 - call_s / wall, rcond=None)
    found = []
    for t, w in zip(times, wall, strict=True):
        mean = np.maximum(t.mean(axis=1), UNSEEN_S / t.shape[1])
        full = np.maximum(rate * mean + each_s, LEAST * mean)
        full *= (w - call_s) / full.sum()
        found.append(np.where(t.any(axis=1, keepdims=True), t, UNSEEN_S / t.shape[1]) * (full / mean)[:, None])
    return found, call_s


def _undisturbed(profile: Floats) -> Floats:
    """(kernels, some) of a profile (kernels, inferences): the inferences whose whole time is among the middle 60 %."""
    order = np.argsort(profile.sum(axis=0), kind="stable")
    cut = int(0.2 * len(order))
    return profile[:, np.sort(order[cut : len(order) - cut])]


def kernel_row(op: Op, samples: Sequence[Floats], session: int) -> Row:
    """The row of a kernel from its times wherever it occurs: each occurrence counts alike, by its mean.

    The interval is that over occurrences where there are several, else that of the mean of its samples.
    """
    each = np.array([float(s.mean()) for s in samples])
    joined = np.concatenate(samples)
    middle = float(each.mean())
    if len(each) >= 3:
        half = 1.96 * float(each.std(ddof=1)) / math.sqrt(len(each))
    else:
        half = 1.96 * max(float(joined.std()), UNSEEN_S) / math.sqrt(len(joined))
    half = min(half, 0.5 * middle)
    return Row(
        str(op), "op", len(joined), middle, middle - half, middle + half, float(np.percentile(joined, 10)),
        float(joined.min()), 0.0, ("in_context",), session,
    )  # fmt: skip
