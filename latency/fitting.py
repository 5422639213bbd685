"""From measurements to a LatencyPredictor, and how it fares on what it never saw."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from latency import new_sizes
from latency.console import Report, quiet
from latency.fit_errors import context_errors, judged, network_errors, op_errors
from latency.frozen import Frozen
from latency.joint import JointFit, Observation, fit_joint
from latency.network_extrapolation import network_extrapolation
from latency.op_fit import FitError, LeftOut, OpFit, fit_ops
from latency.ops import Op
from latency.predictor import LatencyPredictor, from_fit
from latency.stats import Floats

TEST_SHARE = 0.4  # of the networks of a table, never used in any fit
TEST_SHARE_NETWORKS = 0.2  # the same where networks are all there is

#: (observations, given={kind: model}) -> the fit of all evidence together.
JointFitter = Callable[..., JointFit]


@dataclass(frozen=True)
class Details:
    """What a fit's report page shows and the predictor does not carry."""

    left_out: dict[str, LeftOut]
    test_ops: list[tuple[Op, ...]]  # networks never used in the fit; where there are none, those left out in turn
    test_measured_s: Floats
    test_predicted_s: Floats
    test_std_s: Floats


def split_networks(
    networks: Sequence[Observation], share: float = TEST_SHARE
) -> tuple[list[Observation], list[Observation]]:
    """(fit, test): a fixed random split; fewer than 5 networks are all for fitting."""
    if len(networks) < 5:
        return list(networks), []
    order = np.random.default_rng(1).permutation(len(networks))
    n_test = math.ceil(share * len(networks))
    return [networks[i] for i in sorted(order[n_test:])], [networks[i] for i in sorted(order[:n_test])]


def fit_predictor(
    device: str,
    observations: Sequence[Observation],
    *,
    folds: int = 10,
    provenance: dict[str, Any],
    report: Report = quiet,
) -> LatencyPredictor:
    """`fit_detailed`, the predictor alone."""
    return fit_detailed(device, observations, folds=folds, provenance=provenance, report=report)[0]


def fit_detailed(
    device: str,
    observations: Sequence[Observation],
    *,
    folds: int = 10,
    provenance: dict[str, Any],
    report: Report = quiet,
    joint_fit: JointFitter = fit_joint,
    hold_out: bool = True,
) -> tuple[LatencyPredictor, Details]:
    """Fit F on the ops and on a part of the networks, together; the errors on the other networks go into provenance.

    Any mix: ops alone, networks alone (then 80 % of them), both (60 %). `hold_out=False` fits on all networks, and
    the errors are those of networks left out in turn. `joint_fit(observations, given=...)` is latency.joint.fit_joint
    or what stands for it.
    Provenance gains `errors`; raises FitError where there is nothing to fit.
    """
    ops = [o for o in observations if len(o.ops) == 1]
    networks = [o for o in observations if len(o.ops) > 1]
    if not observations:
        raise FitError("nothing measured: profile a device first (python -m latency.profile)")
    share = TEST_SHARE if ops else TEST_SHARE_NETWORKS
    fit_nets, test_nets = split_networks(networks, share) if hold_out else (networks, [])
    op_fit = fit_ops(ops, folds, report=report) if ops else OpFit({}, {}, {}, None)
    given: dict[str, Frozen] = {}
    for name, model in op_fit.chosen.items():
        fitted = op_fit.kinds[name].model
        if model not in ("gaussian_process", "lookup") and fitted is not None:
            given[name] = fitted
    report(0.0, 1.0, "ops and networks together")
    joint = joint_fit([*ops, *fit_nets], given=given)
    predictor = from_fit(device, joint)
    of_nets = judged(predictor, joint, fit_nets, test_nets)
    errors = op_errors(op_fit, ops, folds) | network_errors(of_nets, joint, ops, fit_nets)
    errors |= {"context": context_errors(predictor, networks), "network_extrapolation": {}}
    errors["new_sizes"] = new_sizes.told(joint.uncertainty)
    if hold_out:  # else F is other devices', who know the ops that would be left out
        errors["network_extrapolation"] = network_extrapolation(observations, op_fit, report)
    shown = [o.ops for o in of_nets.networks]
    details = Details(op_fit.left_out, shown, of_nets.measured_s, of_nets.predicted_s, of_nets.std_s)
    return replace(predictor, provenance={**provenance, "errors": errors, "software": software()}), details


def software() -> dict[str, str]:
    """Versions that took part in a fit."""
    import scipy
    import sklearn

    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scikit-learn": sklearn.__version__,
        "scipy": scipy.__version__,
    }
