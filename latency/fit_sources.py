"""What `python -m latency.fit` fits from: a table, a file of networks, a published look-up table, other predictors."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from latency.console import Ui
from latency.device_state import states
from latency.fitting import Details, fit_detailed
from latency.joint import Observation
from latency.kernel_fit import fit_kernels
from latency.kernel_times import require_drawing
from latency.network_file import read_networks
from latency.op_fit import FitError
from latency.predictor import LatencyPredictor
from latency.published import read_published
from latency.space import load_space
from latency.table import LatencyTable
from latency.transfer import MIN_NETWORKS, check_sources, fit_from, load_sources

Z95 = 1.96
FEW_NETWORKS = 10  # without a single op timed alone: below this a fit says so, below MIN_NETWORKS there is none

Fitted = tuple[LatencyPredictor, Details]


def observations(table: LatencyTable) -> list[Observation]:
    """The rows of `table` as observations; the standard error is that of the median, the host's speed left out."""
    scales = table.scales()
    return [
        Observation(row.ops, row.median_s, row.own_half_s(scales.get(row.session, 0.0)) / Z95, row.drift)
        for row in table.rows()
    ]


def fit_table(path: Path, folds: int, ui: Ui) -> Fitted:
    """Fit the table at `path`: its ops, its networks, or both. Raises TableError, FitError."""
    table = LatencyTable(path)
    rows = _observed(path, observations(table))
    content = table.provenance()
    provenance = _provenance(path, table.digest(), content["fingerprint"]) | {"sessions": len(content["sessions"])}
    provenance |= _state(content)
    _enough(path, rows, ui)
    device = str(content["fingerprint"].get("device", path.stem))
    of_kernels = any(s.get("kernel_lot") is not None for s in content["sessions"])  # kernels timed inside networks
    with ui.progress(f"fitting {path.stem}") as report:
        if of_kernels:
            require_drawing(path, content["sessions"])
            return fit_kernels(device, rows, provenance=provenance, report=report)
        return fit_detailed(device, rows, folds=folds, provenance=provenance, report=report)


def _observed(path: Path, rows: list[Observation]) -> list[Observation]:
    if not rows:
        raise FitError(
            f"{path}: no measured ops in it; run python -m latency.profile again, it goes on where it stopped"
        )
    return rows


def _enough(path: Path, rows: Sequence[Observation], ui: Ui) -> None:
    """Raises FitError, or warns, where there are whole networks only, and too few of them to tell their ops apart."""
    n = len({r.ops for r in rows})
    if any(len(r.ops) == 1 for r in rows) or n >= FEW_NETWORKS:
        return
    found = f"{path}: {n} different network{'s' if n != 1 else ''}, no op timed alone"
    advice = "measure more, or their ops too, or start from other devices with --transfer-from"
    if n < MIN_NETWORKS:
        raise FitError(f"{found}; at least {MIN_NETWORKS} are needed, {FEW_NETWORKS} are few: {advice}")
    ui.warn(f"{found}: below {FEW_NETWORKS}, predictions and the errors told of them are guesses; {advice}")


def _state(content: dict[str, Any]) -> dict[str, Any]:
    """Heat and clocks of the sessions of a table, where its device tells them."""
    found = states(*(s.get("device_state") for s in content["sessions"]))
    return {"device_state": found} if found else {}


def _provenance(path: Path, digest: str, fingerprint: dict[str, Any]) -> dict[str, Any]:
    return {
        "source": path.name,  # the digest says which; a path would tell of the machine
        "table_sha256": digest,
        "fingerprint": fingerprint,
        "fitted": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def fit_networks(path: Path, space_name: str, column: str, device: str, ui: Ui) -> Fitted:
    """Fit from whole networks only, measured by others. Raises NetworkFileError, SpaceError, FitError for too few."""
    rows = read_networks(path, load_space(space_name), column)
    _enough(path, rows, ui)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    fingerprint = {"device": device, "runtime": f"column {column} of {path.name}; not stated otherwise"}
    with ui.progress(f"fitting {column}") as report:
        provenance = _provenance(path, digest, fingerprint) | {"space": space_name, "column": column}
        return fit_detailed(device, rows, folds=0, provenance=provenance, report=report)


def fit_transfer(
    device: str,
    sources: Sequence[Path],
    ui: Ui,
    *,
    table: Path | None = None,
    networks: Path | None = None,
    space: str = "",
    column: str = "",
    few: int | None = None,
) -> Fitted:
    """Fit a new device from few measured networks and the predictors of others.

    The networks are those of `table`, or column `column` of the file `networks` (the first `few` of them, where given).
    Raises TransferError, UnsupportedOp where a source does not know an op of the networks.
    """
    known = load_sources(sources)
    state: dict[str, Any] = {}
    if networks is not None:
        path, rows = networks, read_networks(networks, load_space(space), column)
        fingerprint: dict[str, Any] = {"device": device, "runtime": f"column {column} of {path.name}"}
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    else:
        assert table is not None
        opened, path = LatencyTable(table), table
        rows, content, digest = _observed(path, observations(opened)), opened.provenance(), opened.digest()
        fingerprint, state = content["fingerprint"], _state(content)
    rows = [r for r in rows if len(r.ops) > 1][:few]
    check_sources(known, rows)
    provenance = _provenance(path, digest, fingerprint) | state | {"transfer_from": [s.device for s in known]}
    with ui.progress(f"fitting {device}") as report:
        return fit_detailed(
            device,
            rows,
            folds=0,
            provenance=provenance,
            report=report,
            joint_fit=partial(fit_from, known),
            hold_out=False,
        )


def fit_published(path: Path, device: str, folds: int, ui: Ui) -> Fitted:
    """Fit a published per-op table. Raises PublishedError."""
    entries = read_published(path)
    rows = [Observation((e.op,), e.mean_s, e.stderr_s) for e in entries]
    provenance = {
        "source": f"published look-up table {path.name}",
        "table_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "fingerprint": {"device": device, "runtime": "as published; threads, mask and versions are not stated"},
        "fitted": time.strftime("%Y-%m-%d", time.gmtime()),
    }
    with ui.progress(f"fitting {path.stem}") as report:
        return fit_detailed(device, rows, folds=folds, provenance=provenance, report=report)
