"""`python -m latency.fit`: tables/*.csv -> features(op) -> F -> tables/*.pkl, with its errors."""

from __future__ import annotations

import argparse
import hashlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devices.errors import UserError
from latency.console import Ui, ms, parser, run

if TYPE_CHECKING:
    from latency.fitting import Observation
    from latency.predictor import LatencyPredictor
    from latency.table import LatencyTable

TABLES = Path("tables")
Z95 = 1.96


def observations(table: LatencyTable) -> list[Observation]:
    """The rows of `table` as observations; the standard error is that of the 95 % interval of the median."""
    from latency.fitting import Observation

    return [
        Observation(row.ops, row.median_s, (row.ci_high_s - row.ci_low_s) / 2 / Z95, row.drift) for row in table.rows()
    ]


def fit_table(path: Path, folds: int, ui: Ui) -> LatencyPredictor:
    """Fit the table at `path`. Raises TableError, FitError."""
    from latency.fitting import FitError, fit_predictor
    from latency.table import LatencyTable

    table = LatencyTable(path)
    rows = observations(table)
    if not any(len(o.ops) == 1 for o in rows):
        raise FitError(
            f"{path}: no measured ops in it; run python -m latency.profile again, it goes on where it stopped"
        )
    content = table.provenance()
    provenance = {
        "source": str(path),
        "table_sha256": table.digest(),
        "fingerprint": content["fingerprint"],
        "sessions": len(content["sessions"]),
        "fitted": time.strftime("%Y-%m-%d", time.gmtime()),
    }
    with ui.progress(f"fitting {path.stem}") as report:
        return fit_predictor(
            str(content["fingerprint"].get("device", path.stem)),
            rows,
            folds=folds,
            provenance=provenance,
            report=report,
        )


def fit_published(path: Path, device: str, folds: int, ui: Ui) -> LatencyPredictor:
    """Fit a published per-op table. Raises PublishedError."""
    from latency.fitting import Observation, fit_predictor
    from latency.published import read_published

    entries = read_published(path)
    rows = [Observation((e.op,), e.mean_s, e.stderr_s) for e in entries]
    provenance = {
        "source": f"published look-up table {path.name}",
        "table_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "fingerprint": {"device": device, "runtime": "as published; threads, mask and versions are not stated"},
        "fitted": time.strftime("%Y-%m-%d", time.gmtime()),
    }
    with ui.progress(f"fitting {path.stem}") as report:
        return fit_predictor(device, rows, folds=folds, provenance=provenance, report=report)


def summary(predictor: LatencyPredictor) -> dict[str, Any]:
    """The keys of --json; errors are fractions, None where nothing was measured to tell."""
    errors = predictor.provenance["errors"]
    return {
        "device": predictor.device,
        "ops": errors["ops"],
        "networks": errors["networks_fit"] + errors["networks_test"],
        "op_mape": errors["op_mape"],
        "network_mape": errors["network_mape"],
        "network_spearman": errors["network_spearman"],
        "noise_floor": errors["noise_floor"],
        "baselines": errors["baselines"],
    }


def tell(ui: Ui, predictor: LatencyPredictor) -> None:
    """The errors of a predictor, beside the baselines."""
    errors = predictor.provenance["errors"]
    how = f"{errors['folds']} folds" if errors["folds"] else "one at a time"
    for kind, by_model in errors["cv"].items():
        ui.table(
            f"{predictor.device}: {kind}, ops left out, {how}",
            ["model", "MAPE"],
            [
                [name + (" (chosen)" if name == errors["model"][kind] else ""), f"{error:.2%}"]
                for name, error in sorted(by_model.items(), key=lambda item: item[1])
            ],
        )
    looked_up = [kind for kind, model in errors["model"].items() if model == "lookup"]
    if looked_up:
        ui.say(f"too few ops to fit, answered by look-up only: {', '.join(looked_up)}")
    if errors["network_mape"] is not None:
        rows = [["this predictor", f"{errors['network_mape']:.2%}", f"{errors['network_spearman']:.3f}"]]
        rows += [
            [n.replace("_", " "), f"{b['mape']:.2%}", f"{b['spearman']:.3f}"] for n, b in errors["baselines"].items()
        ]
        rows.append(["noise floor (half of the rounds against the other)", f"{errors['noise_floor']:.2%}", ""])
        ui.table(
            f"{predictor.device}: {errors['networks_test']} networks never used in a fit",
            ["", "MAPE", "Spearman"],
            rows,
        )


def show(ui: Ui, predictor: LatencyPredictor) -> None:
    """What a predictor was fitted on, and its errors."""
    for name in ("source", "table_sha256", "fitted", "fingerprint", "software"):
        value = predictor.provenance.get(name)
        text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        ui.say(f"{name}: {text}")
    ui.say(f"network = {ms(predictor.constant_s)} + {predictor.scale:.3f} x sum of its ops")
    tell(ui, predictor)


def stale(table: Path) -> bool:
    """Whether `table` is newer than its predictor, or has none."""
    pkl = table.with_suffix(".pkl")
    return not pkl.exists() or pkl.stat().st_mtime < table.stat().st_mtime


def _write(ui: Ui, predictor: LatencyPredictor, out: Path) -> None:
    predictor.save(out)
    tell(ui, predictor)
    ui.say(f"wrote {out} ({out.stat().st_size / 1024:.0f} KiB)")


def _work(ui: Ui, args: argparse.Namespace) -> dict[str, Any]:
    from latency.predictor import load_predictor

    if args.folds < 0 or args.folds == 1:
        raise UserError(f"--folds {args.folds}: 0 (leave one op out) or at least 2")
    if args.show:
        predictor = load_predictor(args.show)
        show(ui, predictor)
        return summary(predictor)
    if args.published:
        if not args.device:
            raise UserError("--published needs --device NAME: what the predictor is called")
        out = Path(args.out or TABLES / f"{args.device}.pkl")
        predictor = fit_published(Path(args.published), args.device, args.folds, ui)
        _write(ui, predictor, out)
        return summary(predictor)
    if args.device:
        raise UserError("--device goes with --published; a table knows its own device")
    paths = [Path(t) for t in args.tables] or sorted(
        p for p in TABLES.glob("*.csv") if not p.name.endswith(".samples.csv")
    )
    if not paths:
        raise UserError(f"no table in {TABLES}/: make one with python -m latency.profile --device cpu")
    if args.out and len(paths) != 1:
        raise UserError(f"--out takes one table, there are {len(paths)}")
    found = []
    for path in paths:
        out = Path(args.out) if args.out else path.with_suffix(".pkl")
        if args.tables or stale(path):
            predictor = fit_table(path, args.folds, ui)
            _write(ui, predictor, out)
        else:
            ui.say(f"{out} is newer than {path}: up to date")
            predictor = load_predictor(out)
        found.append(summary(predictor))
    return found[0] if len(found) == 1 else {"fits": found}


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    made = parser("latency.fit", "Fit a latency predictor to every table that is newer than its predictor.")
    made.add_argument("tables", nargs="*", help="tables to fit whether newer or not (default: tables/*.csv)")
    made.add_argument("--show", metavar="PKL", help="print what a predictor was fitted on and its errors; fit nothing")
    made.add_argument(
        "--published", metavar="FILE", help="fit a published YAML look-up table (ProxylessNAS / OFA keys)"
    )
    made.add_argument("--device", help="with --published: the name of the predictor")
    made.add_argument("--out", help="where to write the predictor (default: beside the table, or tables/DEVICE.pkl)")
    made.add_argument("--folds", type=int, default=10, help="folds of the cross-validation over ops; 0 leaves one out")
    return run(_work, made.parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
