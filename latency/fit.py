"""`python -m latency.fit`: tables/*.csv -> features(op) -> F -> tables/*.pkl, with its errors and a report page."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devices.errors import UserError
from latency.console import Ui, parser, run
from latency.files import check_writable

if TYPE_CHECKING:
    from latency.fit_sources import Fitted
    from latency.predictor import LatencyPredictor

TABLES = Path("tables")


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
    from latency.accuracy import never_seen
    from latency.fit_tables import CONTEXT_HEAD, RARE_HEAD, SIZES_HEAD, context_rows, rare_rows, size_rows

    errors = predictor.provenance["errors"]
    how = f"{errors['folds']} folds" if errors["folds"] else "one at a time"
    for kind, by_model in errors["cv"].items():
        ui.table(
            f"{predictor.device}: {kind}, ops {errors.get('op_how', 'timed alone')}, left out, {how}",
            ["model", "MAPE"],
            [
                [name + (" (chosen)" if name == errors["model"][kind] else ""), f"{error:.2%}"]
                for name, error in sorted(by_model.items(), key=lambda item: item[1])
            ],
        )
    looked_up = [kind for kind, model in errors["model"].items() if model == "lookup"]
    if looked_up:
        ui.say(f"too few ops to fit, answered by look-up only: {', '.join(looked_up)}")
    if errors.get("extrapolation"):
        said = ", ".join(f"{name} {error:.1%}" for name, error in errors["extrapolation"].items())
        ui.say(f"outside what was measured (all ops of one value left out at once): {said}")
    if errors["network_mape"] is not None:
        rows = [["this predictor", f"{errors['network_mape']:.2%}", f"{errors['network_spearman']:.3f}"]]
        rows += [
            [n.replace("_", " "), f"{b['mape']:.2%}", f"{b['spearman']:.3f}"] for n, b in errors["baselines"].items()
        ]
        if errors["noise_floor"] is not None:
            rows.append(["noise floor (half of the rounds against the other)", f"{errors['noise_floor']:.2%}", ""])
        ui.table(
            f"{predictor.device}: {errors['networks_test']} networks {never_seen(errors)}",
            ["", "MAPE", "Spearman"],
            rows,
        )
    if errors.get("network"):
        of = errors["network"]
        who = f"{of['n']:.0f} networks, none held out, each left out of the fit in turn: MAPE {of['mape']:.2%}, "
        ui.say(
            f"{who if errors.get('network_how') == 'left out in turn' else ''}"
            f"within 5 % {of['within_5']:.0%}, within 10 % {of['within_10']:.0%}; "
            f"nominal 90 % intervals hold {of['coverage_90']:.0%} of them"
        )
    elif errors["network_mape"] is None and errors.get("network_loo_mape") is not None:  # of an older file
        ui.say(f"{errors['networks_fit']} networks, left out in turn: MAPE {errors['network_loo_mape']:.2%}")
    for title, head, rows in (
        ("networks with something that no network and no op of a fit had", RARE_HEAD, rare_rows(errors)),
        ("resolutions left out of the fit in turn", SIZES_HEAD, size_rows(errors)),
        ("ops alone and inside a network, as fitted", CONTEXT_HEAD, context_rows(errors)),
    ):
        if rows:
            ui.table(f"{predictor.device}: {title}", head, rows)


def show(ui: Ui, predictor: LatencyPredictor) -> None:
    """What a predictor was fitted on, and its errors."""
    for name in ("source", "table_sha256", "fitted", "fingerprint", "software"):
        value = predictor.provenance.get(name)
        text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        ui.say(f"{name}: {text}")
    ui.say(f"network = {predictor.law()}")
    tell(ui, predictor)


def stale(table: Path) -> bool:
    """Whether `table` is newer than its predictor, or has none."""
    pkl = table.with_suffix(".pkl")
    return not pkl.exists() or pkl.stat().st_mtime < table.stat().st_mtime


def _page(args: argparse.Namespace, out: Path) -> Path | None:
    """Where the page of errors goes; None where none is wanted."""
    return None if args.no_report else Path(args.report) if args.report else out.with_suffix(".html")


def _write(ui: Ui, fitted: Fitted, out: Path, page: Path | None) -> dict[str, Any]:
    predictor, details = fitted
    predictor.save(out)
    tell(ui, predictor)
    ui.say(f"wrote {out} ({out.stat().st_size / 1024:.0f} KiB)")
    if page is not None:
        from latency.fit_report import write_report

        ui.say(f"wrote {write_report(page, predictor, details)}")
    return summary(predictor)


def _check(args: argparse.Namespace) -> None:
    """What goes with what. Raises UserError naming the option."""
    if args.report and args.no_report:
        raise UserError("--report HTML and --no-report: one or the other")
    if args.folds < 0 or args.folds == 1:
        raise UserError(f"--folds {args.folds}: 0 (leave one op out) or at least 2")
    if args.networks and not (args.space and args.column):
        raise UserError("--networks needs --space NAME and --column NAME_ms: whose networks, and which latency")
    if (args.space or args.column) and not args.networks:
        raise UserError("--space and --column go with --networks FILE.csv")
    if args.published and not args.device:
        raise UserError("--published needs --device NAME: what the predictor is called")
    if args.transfer_from and not args.device:
        raise UserError("--transfer-from needs --device NAME: what the new predictor is called")
    if args.few is not None and not (args.transfer_from and args.networks and args.few > 0):
        raise UserError("--few N (at least 1) goes with --transfer-from and --networks: use the first N of the file")
    if args.published and (args.networks or args.transfer_from):
        raise UserError("--published does not go with --networks or --transfer-from")
    if args.device and not (args.published or args.networks or args.transfer_from):
        raise UserError("--device goes with --published, --networks or --transfer-from; a table knows its own device")


def _single(ui: Ui, args: argparse.Namespace) -> tuple[Fitted, Path] | None:
    """The fits that are not of tables as they are, and where they go; None for those."""
    if not (args.published or args.networks or args.transfer_from):
        return None
    from latency import fit_sources

    device = args.device or args.column.rsplit("_", 1)[0]
    out = Path(args.out or TABLES / f"{device}.pkl")
    check_writable(out)
    if args.transfer_from:
        if len(args.tables) > 1:
            raise UserError(f"--transfer-from takes one table of the new device, there are {len(args.tables)}")
        table = Path(args.tables[0]) if args.tables else TABLES / f"{device}.csv"
        return fit_sources.fit_transfer(
            device,
            [Path(p) for p in args.transfer_from],
            ui,
            table=table,
            networks=Path(args.networks) if args.networks else None,
            space=args.space or "",
            column=args.column or "",
            few=args.few,
        ), out
    if args.tables:
        raise UserError(f"{args.tables[0]}: a table does not go with --published or --networks")
    if args.published:
        return fit_sources.fit_published(Path(args.published), device, args.folds, ui), out
    return fit_sources.fit_networks(Path(args.networks), args.space, args.column, device, ui), out


def _work(ui: Ui, args: argparse.Namespace) -> dict[str, Any]:
    from latency.predictor import load_predictor

    _check(args)
    if args.show:
        predictor = load_predictor(args.show)
        show(ui, predictor)
        return summary(predictor)
    single = _single(ui, args)
    if single is not None:
        return _write(ui, *single, _page(args, single[1]))
    paths = [Path(t) for t in args.tables] or sorted(
        p for p in TABLES.glob("*.csv") if not p.name.endswith(".samples.csv")
    )
    if not paths:
        raise UserError(f"no table in {TABLES}/: make one with python -m latency.profile --device cpu")
    for option, value in (("--out", args.out), ("--report", args.report)):
        if value and len(paths) != 1:
            raise UserError(f"{option} takes one table, there are {len(paths)}")
    found = []
    for path in paths:
        out = Path(args.out) if args.out else path.with_suffix(".pkl")
        if args.tables or stale(path):
            from latency.fit_sources import fit_table

            check_writable(out)
            found.append(_write(ui, fit_table(path, args.folds, ui), out, _page(args, out)))
        else:
            ui.say(f"{out} is newer than {path}: up to date")
            found.append(summary(load_predictor(out)))
    return found[0] if len(found) == 1 else {"fits": found}


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    made = parser("latency.fit", "Fit a latency predictor to every table that is newer than its predictor.")
    made.add_argument("tables", nargs="*", help="tables to fit whether newer or not (default: tables/*.csv)")
    made.add_argument("--show", metavar="PKL", help="print what a predictor was fitted on and its errors; fit nothing")
    made.add_argument(
        "--published", metavar="FILE", help="fit a published YAML look-up table (ProxylessNAS / OFA keys)"
    )
    made.add_argument(
        "--networks", metavar="CSV", help="fit whole networks only: a column 'arch' and one of latencies, NAME_ms"
    )
    made.add_argument("--space", help="with --networks: the space that 'arch' counts candidates of")
    made.add_argument(
        "--column", help="with --networks: the column of latencies; its ending (_ms, _us, _s) is the unit"
    )
    made.add_argument(
        "--transfer-from",
        nargs="+",
        metavar="PKL",
        help="fit a new device from few networks (tables/DEVICE.csv, --networks, or a table before this option) "
        "and these devices' predictors",
    )
    made.add_argument("--few", type=int, help="with --transfer-from and --networks: only the first FEW networks")
    made.add_argument("--device", help="the name of the predictor, where it is not fitted from a table alone")
    made.add_argument("--out", help="where to write the predictor (default: beside the table, or tables/DEVICE.pkl)")
    made.add_argument("--folds", type=int, default=10, help="folds of the cross-validation over ops; 0 leaves one out")
    made.add_argument("--report", metavar="HTML", help="where the page of its errors goes (default: beside it)")
    made.add_argument("--no-report", action="store_true", help="write no page of its errors")
    return run(_work, made.parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
