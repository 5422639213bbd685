"""What predictions are off along: columns that ops or networks differ in, those first that tell most of the error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from latency.features import FEATURES, SHAPE, discrete_values, feature_matrix
from latency.flops import bytes_moved, macs, params
from latency.ops import MBConv, Op
from latency.stats import Floats

BINS = 8  # of a column with more different values than that
SAME = 0.999  # correlation above which two columns show the same

Bools = npt.NDArray[np.bool_]


def op_columns(ops: Sequence[Op]) -> dict[str, Floats]:
    """Feature of the shape -> (n,) values."""
    x = feature_matrix(ops)
    return {name: x[:, FEATURES.index(name)] for name in SHAPE}


def network_columns(networks: Sequence[Sequence[Op]], predicted_s: Floats) -> dict[str, Floats]:
    """Name -> (n,) values of what networks differ in: totals of work, depth, how many ops have what."""
    counts = [_counts(ops) for ops in networks]
    found = {
        "predicted, ms": predicted_s * 1e3,
        "MMACs": np.array([sum(map(macs, ops)) / 1e6 for ops in networks]),
        "MB moved": np.array([sum(map(bytes_moved, ops)) / 1e6 for ops in networks]),
        "M weights": np.array([sum(map(params, ops)) / 1e6 for ops in networks]),
        "input size, pixels": np.array([float(ops[0].height) for ops in networks]),
    }
    for name in sorted({n for c in counts for n in c}):
        found[name] = np.array([float(c[name]) for c in counts])
    return found


def _counts(ops: Sequence[Op]) -> Counter[str]:
    found: Counter[str] = Counter()
    for op in ops:
        if op.is_free:
            found["skips"] += not op.is_wiring
            continue
        found["ops"] += 1
        found[f"{type(op).__name__} ops"] += 1
        values = discrete_values(op)
        if isinstance(op, MBConv):
            values["expand"] = f"{op.mid_channels / op.in_channels:.3g}"
        found.update(f"ops with {field} {value}" for field, value in values.items())
    return found


def grouped(values: Floats) -> list[Bools]:
    """(n,) masks of alike values: the different values where there are few, else eight parts of about equal numbers."""
    levels = np.unique(values)
    edges = levels if len(levels) <= BINS else np.unique(np.quantile(values, np.arange(BINS) / BINS))
    group = np.searchsorted(edges, values, side="right")
    return [group == g for g in np.unique(group)]


def told(values: Floats, error: Floats) -> float:
    """Share of the variance of `error` (n,) that groups of alike `values` (n,) tell, beyond what chance would; >= 0.

    Omega squared of a one-way analysis; errors beyond three deviations count as three, for a few networks that were
    mismeasured would hide what all others tell.
    """
    middle = float(np.median(error))
    reach = 3 * 1.4826 * float(np.median(np.abs(error - middle)))
    if reach > 0:
        error = np.clip(error, middle - reach, middle + reach)
    parts = [error[mask] for mask in grouped(values)]
    total = float(((error - error.mean()) ** 2).sum())
    within = sum(float(((p - p.mean()) ** 2).sum()) for p in parts)
    freedom = len(error) - len(parts)
    if freedom < 1 or total <= 0:
        return 0.0
    mean_square = within / freedom
    return max(0.0, (total - within - (len(parts) - 1) * mean_square) / (total + mean_square))


def most_telling(columns: Mapping[str, Floats], error: Floats, most: int) -> dict[str, float]:
    """Name -> what it tells of the (n,) error: the `most` columns that tell most; of columns that agree, one."""
    share = {name: told(values, error) for name, values in columns.items() if np.ptp(values) > 0}
    found: dict[str, float] = {}
    for name in sorted(share, key=lambda n: -share[n]):
        if len(found) == most:
            break
        if all(abs(np.corrcoef(columns[name], columns[f])[0, 1]) < SAME for f in found):
            found[name] = share[name]
    return found
