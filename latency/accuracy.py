"""How far predictions are off: one set of figures for ops and for networks."""

from __future__ import annotations

from typing import Any

import numpy as np

from latency.stats import Floats, mape, spearman

Z90 = 1.645  # half-width of a normal 90 % interval in standard errors


def never_seen(errors: dict[str, Any]) -> str:
    """How the networks that errors are told of were kept from the fit that predicts them."""
    how = str(errors.get("network_how", ""))
    return f"{how}, each predicted from the other folds" if how.endswith("folds") else "never used in a fit"


def scores(predicted_s: Floats, measured_s: Floats, std_s: Floats | None = None) -> dict[str, float]:
    """MAPE, RMSE, share within 5 % and 10 %, Spearman, Kendall; with `std_s` the share inside nominal 90 % intervals.

    All (n,), n >= 1. Rank correlations of fewer than 3 values are left out.
    """
    off = np.abs(predicted_s - measured_s)
    found = {
        "n": float(len(off)),
        "mape": mape(predicted_s, measured_s),
        "rmse_s": float(np.sqrt(np.mean(off**2))),
        "within_5": float(np.mean(off <= 0.05 * measured_s)),
        "within_10": float(np.mean(off <= 0.10 * measured_s)),
    }
    if len(off) >= 3:
        found |= {"spearman": spearman(predicted_s, measured_s), "kendall": kendall(predicted_s, measured_s)}
    if std_s is not None:
        found["coverage_90"] = float(np.mean(off <= Z90 * std_s))
    return found


def kendall(a: Floats, b: Floats) -> float:
    """Kendall's tau-b; 0 where one side is constant."""
    from scipy.stats import kendalltau

    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(kendalltau(a, b).statistic)
