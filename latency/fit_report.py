"""The page of a fit: predicted against measured, errors by feature, intervals, and what was left out how."""

from __future__ import annotations

import html
import io
from pathlib import Path
from typing import Any

import numpy as np

from latency.accuracy import never_seen
from latency.files import write_atomically
from latency.fit_tables import (
    CONTEXT_HEAD,
    CONTEXT_NOTE,
    RARE_HEAD,
    RARE_NOTE,
    SIZES_HEAD,
    SIZES_NOTE,
    context_rows,
    rare_rows,
    size_rows,
)
from latency.fitting import Details
from latency.flops import macs
from latency.predictor import LatencyPredictor
from latency.residuals import grouped, most_telling, network_columns, op_columns
from latency.stats import Floats

Z90 = 1.645
IN_TURN_NOTE = (
    "No network was held out: each is predicted by a fit on the others, its interval as wide as their errors say."
)
MAX_FEATURES = 8  # plots of residuals; the features along which the error varies most
MAX_MARKS = 200  # points drawn one by one; of more, a picture is smaller
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;margin:.5rem 0}td,th{padding:.15rem .8rem .15rem 0;text-align:left}"
    "td+td,th+th{text-align:right}svg{max-width:100%;height:auto}"
)


def write_report(path: Path, predictor: LatencyPredictor, details: Details) -> Path:
    """Write the page (one file, no outside resources) and return its path."""
    errors = predictor.provenance["errors"]
    parts = [f"<h1>{html.escape(predictor.device)}: how far its predictor is off</h1>", _about(predictor)]
    n = len(details.test_measured_s)
    if errors["networks_test"]:
        parts += [f"<h2>{n} networks {never_seen(errors)}</h2>", _figures(errors["network"])]
        parts += [_baselines(errors), _networks_plot(details), _network_residuals(details)]
    elif n:
        parts += [f"<h2>{n} networks, each left out of a fit in turn</h2>", f"<p>{IN_TURN_NOTE}</p>"]
        parts += [_figures(errors["network"]), _networks_plot(details), _network_residuals(details)]
    if details.left_out:
        parts += [
            "<h2>Ops " + errors.get("op_how", "timed alone") + ", left out</h2>",
            _figures(errors["op"]),
            _models(errors),
            _ops_plot(details),
        ]
        parts += ["<h3>Residuals by feature</h3>", _op_residuals(details)]
    parts += [_context(errors), _outside(errors)]
    page = f"<!doctype html><meta charset=utf-8><title>{html.escape(predictor.device)}</title><style>{STYLE}</style>"
    write_atomically(path, (page + "\n".join(parts)).encode())
    return path


def _about(predictor: LatencyPredictor) -> str:
    rows = [[k, str(predictor.provenance.get(k))] for k in ("source", "fitted", "table_sha256", "fingerprint")]
    rows.append(["network", predictor.law()])
    return _table(["", ""], rows)


def _figures(of: dict[str, float]) -> str:
    names = {
        "mape": "MAPE",
        "within_5": "within 5 %",
        "within_10": "within 10 %",
        "coverage_90": "inside nominal 90 % intervals",
    }
    rows = [[label, f"{of[k]:.2%}"] for k, label in names.items() if k in of]
    rows.append(["RMSE", f"{of['rmse_s'] * 1e3:.4g} ms"])
    rows += [[k.title(), f"{of[k]:.4f}"] for k in ("spearman", "kendall") if k in of]
    return _table(["", f"n = {of['n']:.0f}"], rows)


def _baselines(errors: dict[str, Any]) -> str:
    rows = [[k.replace("_", " "), f"{v['mape']:.2%}", f"{v['spearman']:.3f}"] for k, v in errors["baselines"].items()]
    if errors.get("noise_floor") is not None:
        rows.append(["noise floor", f"{errors['noise_floor']:.2%}", ""])
    return _table(["baseline, same networks", "MAPE", "Spearman"], rows)


def _models(errors: dict[str, Any]) -> str:
    rows = [
        [kind, name + (" (chosen)" if errors["model"][kind] == name else ""), f"{error:.2%}"]
        for kind, by_model in errors["cv"].items()
        for name, error in by_model.items()
    ]
    note = f"<p>Folds by the model that the other folds choose: MAPE {errors['op_nested_mape']:.2%}.</p>"
    return _table(["kind", "model", "MAPE"], rows) + note


def _table(head: list[str], rows: list[list[str]]) -> str:
    def line(cells: list[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

    return "<table>" + (line(head, "th") if any(head) else "") + "".join(line(r, "td") for r in rows) + "</table>"


def _svg(draw: Any, columns: int, rows: int = 1) -> str:
    """`draw(axes)` on a figure of `rows` x `columns`, as inline SVG."""
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(4.2 * columns, 3.2 * rows), layout="constrained")
    draw(np.atleast_1d(figure.subplots(rows, columns)).ravel())
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None}, dpi=144)
    text = out.getvalue()
    return text[text.index("<svg") :]


def _scatter(axis: Any, measured_s: Floats, predicted_s: Floats, std_s: Floats) -> None:
    axis.errorbar(
        measured_s * 1e3,
        predicted_s * 1e3,
        Z90 * std_s * 1e3,
        fmt="o",
        ms=3,
        lw=0.6,
        alpha=0.6,
    )
    ends = [min(measured_s.min(), predicted_s.min()) * 1e3, max(measured_s.max(), predicted_s.max()) * 1e3]
    axis.plot(ends, ends, color="black", lw=0.8)
    axis.set(xlabel="measured, ms", ylabel="predicted, ms")


def _networks_plot(details: Details) -> str:
    measured, predicted, std = details.test_measured_s, details.test_predicted_s, details.test_std_s
    work = np.array([sum(macs(op) for op in ops) for ops in details.test_ops]) / 1e6

    def draw(axes: Any) -> None:
        _scatter(axes[0], measured, predicted, std)
        axes[1].plot(work, (predicted / measured - 1) * 100, "o", ms=3, alpha=0.6)
        axes[1].axhline(0, color="black", lw=0.8)
        axes[1].set(xlabel="MMACs", ylabel="error, %")
        _calibration_plot(axes[2], predicted, measured, std)

    return _svg(draw, 3)


def _calibration_plot(axis: Any, predicted_s: Floats, measured_s: Floats, std_s: Floats) -> None:
    nominal = np.linspace(0.02, 0.98, 49)
    axis.plot(nominal, calibration(predicted_s, measured_s, std_s, nominal))
    axis.plot([0, 1], [0, 1], color="black", lw=0.8)
    axis.set(xlabel="nominal share of an interval", ylabel="share it holds")


def calibration(predicted_s: Floats, measured_s: Floats, std_s: Floats, nominal: Floats) -> Floats:
    """(len(nominal),) share of the measured values inside normal intervals of each nominal share."""
    from scipy.stats import norm

    off = np.abs(predicted_s - measured_s) / std_s
    return np.asarray([np.mean(off <= norm.ppf(0.5 + share / 2)) for share in nominal], dtype=np.float64)


def _ops_plot(details: Details) -> str:
    def draw(axes: Any) -> None:
        for axis, (kind, out) in zip(axes[:-1], details.left_out.items(), strict=True):
            _scatter(axis, out.measured_s, out.predicted_s, out.std_s)
            axis.set(title=kind, xscale="log", yscale="log")
            axis.xaxis.set_minor_formatter("")  # labels of a short log axis would overlap

        outs = details.left_out.values()
        joined = [np.concatenate([getattr(o, n) for o in outs]) for n in ("predicted_s", "measured_s", "std_s")]
        _calibration_plot(axes[-1], *joined)

    return _svg(draw, len(details.left_out) + 1)


def _residuals_plot(columns: dict[str, Floats], error: Floats) -> str:
    """Error (n,) in percent along the columns that vary, those first that tell most of it; the line: its middle."""
    shown = most_telling(columns, error, MAX_FEATURES)
    if not shown:
        return ""
    rows = -(-len(shown) // 4)

    def draw(axes: Any) -> None:
        for axis, (name, share) in zip(axes, shown.items(), strict=False):
            axis.plot(columns[name], error, "o", ms=3, alpha=0.6, rasterized=len(error) > MAX_MARKS)
            middle = [(columns[name][m].mean(), np.median(error[m])) for m in grouped(columns[name])]
            axis.plot(*np.array(middle).T, color="tab:red", lw=1.2)
            axis.axhline(0, color="black", lw=0.8)
            axis.set(xlabel=name, ylabel="error, %", title=f"tells {share:.0%} of the variance")
            axis.title.set_fontsize("small")
        for axis in axes[len(shown) :]:
            axis.remove()

    return _svg(draw, min(4, len(shown)), rows)


def _op_residuals(details: Details) -> str:
    outs = details.left_out.values()
    error = np.concatenate([out.predicted_s / out.measured_s - 1 for out in outs]) * 100
    return _residuals_plot(op_columns([op for out in outs for op in out.ops]), error)


def _network_residuals(details: Details) -> str:
    error = (details.test_predicted_s / details.test_measured_s - 1) * 100
    plots = _residuals_plot(network_columns(details.test_ops, details.test_predicted_s), error)
    return f"<h3>Residuals of networks, by what they differ in</h3>{plots}" if plots else ""


def _outside(errors: dict[str, Any]) -> str:
    """What it is worth outside what was measured: ops, networks with something rare, resolutions."""
    parts = []
    if errors.get("extrapolation"):
        rows = [[k, f"{v:.2%}"] for k, v in errors["extrapolation"].items()]
        parts += ["<p>Ops timed alone, all of one value of the feature left out at once.</p>"]
        parts.append(_table(["kind and feature", "MAPE"], rows))
    rare = rare_rows(errors)
    if rare:
        parts += [f"<p>{RARE_NOTE}</p>", _table(RARE_HEAD, rare)]
    resolutions = size_rows(errors)
    if resolutions:
        parts += [f"<p>{SIZES_NOTE}</p>", _table(SIZES_HEAD, resolutions)]
    return "\n".join(["<h2>Outside what was measured</h2>", *parts] if parts else [])


def _context(errors: dict[str, Any]) -> str:
    """What ops take in a network beside what they take alone."""
    rows = context_rows(errors)
    if not rows:
        return ""
    return f"<h2>Ops inside a network</h2><p>{CONTEXT_NOTE}</p>{_table(CONTEXT_HEAD, rows)}"
