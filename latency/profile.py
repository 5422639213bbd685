"""`python -m latency.profile --device cpu`: time every op of a space, and random whole networks, into a table."""

from __future__ import annotations

import argparse
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devices.errors import UserError
from latency.console import Ui, ms, parser, run

FEW_POOL = 500  # random networks that --few chooses from

if TYPE_CHECKING:
    from collections.abc import Sequence

    from devices.base import Device, DeviceError
    from latency.measure import Measurement, Policy, Progress, Workload
    from latency.ops import Op
    from latency.predictor import LatencyPredictor
    from latency.space import SearchSpace
    from latency.table import LatencyTable, Row


@dataclass(frozen=True)
class ProfileResult:
    """What a profile came to. `seconds` is the wall time of this run, preparing included."""

    device: str
    rows: int
    networks: int
    seconds: float
    noisy: int
    failed: int


def workloads(space: SearchSpace, networks: int, seed: int) -> list[Workload]:
    """Every op of `space` that takes time, and `networks` random networks. A larger number keeps the smaller's."""
    from latency.measure import Workload
    from latency.modules import build, build_network
    from latency.ops import network_text

    found = [
        Workload(str(op), "op", lambda op=op: build(op), op.input_shape)  # type: ignore[misc]
        for op in space.unique_ops()
    ]
    if space.n_networks < 2 * networks:
        raise UserError(
            f"space '{space.name}' holds only {space.n_networks} networks: --networks {networks} is too many"
        )
    rng = random.Random(seed)
    chains: dict[tuple[Op, ...], None] = {}
    while len(chains) < networks:
        chains[space.random(rng).kernel_ops] = None
    found += [
        Workload(network_text(ops), "network", lambda ops=ops: build_network(ops), space.input_shape)  # type: ignore[misc]
        for ops in chains
    ]
    return found


def few_workloads(space: SearchSpace, few: int, seed: int, prior: Sequence[LatencyPredictor]) -> list[Workload]:
    """The `few` of FEW_POOL random networks that tell most of the others; no ops. See latency.transfer."""
    from latency.measure import Workload
    from latency.modules import build_network
    from latency.ops import network_text
    from latency.transfer import most_informative

    rng = random.Random(seed)
    pool = list(dict.fromkeys(space.random(rng).kernel_ops for _ in range(FEW_POOL)))
    chosen = [pool[i] for i in most_informative(pool, few, prior)]
    return [
        Workload(network_text(ops), "network", lambda ops=ops: build_network(ops), space.input_shape)  # type: ignore[misc]
        for ops in chosen
    ]


def profile(
    device: Device,
    space: SearchSpace,
    table: LatencyTable,
    policy: Policy,
    *,
    networks: int = 60,
    seed: int = 0,
    ui: Ui | None = None,
    only: list[Workload] | None = None,
) -> ProfileResult:
    """Measure `space` on `device` into `table`, going on from what the table holds already.

    `only` replaces what is measured: else every op of the space and `networks` random networks.

    Raises TableError where the table is of another device; UserError where the space is too small.
    """
    from latency.measure import prepare, run_rounds
    from latency.table import workload_id

    ui, began = ui or Ui(), time.monotonic()
    todo = workloads(space, networks, seed) if only is None else only
    session = table.start(
        device.describe(),
        {
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "space": space.name,
            "networks": networks if only is None else len(only),
            "seed": seed,
            "target": policy.target,
            "budget_s": policy.budget_s,
            "host": host_state(),
        },
    )
    have = {row.op for row in table.rows()}
    progress = _saved(table, todo)
    left = [w for w in todo if w.key not in have]
    if len(left) < len(todo) or progress.samples:
        ui.say(
            f"going on: {len(todo) - len(left)} of {len(todo)} workloads are in {table.path}, "
            f"{progress.next_round} rounds of the others are kept"
        )
    failed: dict[str, str] = {}
    if left:
        with ui.progress("preparing") as report:
            sessions, failed = prepare(device, left, report)

        def on_failed(key: str, error: DeviceError) -> None:
            failed[key] = str(error)
            ui.warn(f"{key[:100]}: {error}; left out")

        try:
            with ui.progress("timing") as report:
                run_rounds(
                    sessions,
                    left,
                    policy,
                    random.Random(f"{seed}/{session}"),
                    progress,
                    report=report,
                    on_round=lambda r, taken: table.append_samples(session, r, [(workload_id(k), s) for k, s in taken]),
                    on_done=lambda m: table.append(to_row(m, session)),
                    on_failed=on_failed,
                )
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"{table.path} keeps what was measured; the same command goes on from there"
            ) from None
        finally:
            for opened in sessions.values():
                opened.close()
            table.update_session(
                seconds=round(time.monotonic() - began, 1),
                rounds=progress.next_round,
                failed=failed,
                host_after=host_state(),
            )
    rows = [row for row in table.rows() if row.op in {w.key for w in todo}]
    return ProfileResult(
        str(device.describe()["device"]),
        len(rows),
        sum(r.kind == "network" for r in rows),
        time.monotonic() - began,
        sum("noisy" in r.flags for r in rows),
        len(failed),
    )


def to_row(measurement: Measurement, session: int) -> Row:
    """The table row of a measurement: statistics of the samples with round factors divided out; min_s is raw."""
    import numpy as np

    from latency.table import Row

    low, high = measurement.ci_s
    corrected = measurement.corrected_s
    if len(corrected) < 6:  # no 95 % interval exists: the range is the widest honest statement
        low, high = float(corrected.min()), float(corrected.max())
    return Row(
        measurement.key,
        measurement.kind,
        len(corrected),
        measurement.median_s,
        low,
        high,
        float(np.percentile(corrected, 10)),
        float(measurement.samples_s.min()),
        measurement.drift,
        measurement.flags,
        session,
    )


def host_state() -> dict[str, Any]:
    """What else this machine was doing: load average, frequency where the host tells it, free memory."""
    import psutil

    frequency = psutil.cpu_freq()
    return {
        "load_1min": round(psutil.getloadavg()[0], 2),
        "cores": psutil.cpu_count(),
        "mhz": round(frequency.current) if frequency else None,
        "free_gib": round(psutil.virtual_memory().available / 2**30, 1),
    }


def _saved(table: LatencyTable, todo: list[Workload]) -> Progress:
    """The samples that earlier sessions kept, by workload key."""
    from latency.measure import Progress
    from latency.table import workload_id

    keys = {workload_id(w.key): w.key for w in todo}
    progress = Progress()
    for _, round_, workload, seconds in table.samples():
        if workload in keys:
            progress.add(keys[workload], round_, seconds)
    return progress


def _work(ui: Ui, args: argparse.Namespace) -> dict[str, Any]:
    import devices
    from latency.measure import Policy
    from latency.space import load_space
    from latency.table import LatencyTable

    for name, low in (("networks", 0), ("budget_min", 0.0), ("target_ci", 0.0)):
        if not getattr(args, name) >= low:
            raise UserError(f"--{name.replace('_', '-')} {getattr(args, name)} must be at least {low}")
    devices.find(args.device)  # an unknown device is said before anything is built
    space = load_space(args.space)
    device = devices.load(args.device)
    name = Path(args.device).stem
    table = LatencyTable(Path(args.out or f"tables/{name}.csv"))
    if table.path.suffix != ".csv":
        raise UserError(f"--out {args.out}: a table is a .csv file")
    if args.overwrite:
        table.remove()
    policy = Policy(target=args.target_ci, budget_s=args.budget_min * 60)
    only = None
    if args.few is not None:
        from latency.predictor import load_predictor

        if not 1 <= args.few <= FEW_POOL:
            raise UserError(f"--few {args.few}: between 1 and {FEW_POOL} networks")
        only = few_workloads(space, args.few, args.seed, [load_predictor(p) for p in args.prior])
    elif args.prior:
        raise UserError("--prior goes with --few: it decides which networks tell most")
    what = (
        f"{len(space.unique_ops())} ops and {args.networks} random" if only is None else f"the {len(only)} most telling"
    )
    ui.say(
        f"profiling '{space.name}' on {args.device}: {what} "
        f"networks, at most {args.budget_min:g} min of timing, into {table.path}"
    )
    result = profile(device, space, table, policy, networks=args.networks, seed=args.seed, ui=ui, only=only)
    ui.say(
        f"{table.path}: {result.rows} rows ({result.networks} networks) in {result.seconds:.0f} s; "
        f"{result.noisy} have an interval wider than {args.target_ci:.0%} (flag noisy)"
        + (f"; {result.failed} failed, see {table.json_path}" if result.failed else "")
    )
    _advise(ui, table, result)
    ui.say("next: python -m latency.fit" + ("" if only is None else f" {table.path}, with --transfer-from PKL ..."))
    return {
        "device": result.device,
        "rows": result.rows,
        "networks": result.networks,
        "seconds": round(result.seconds, 1),
        "noisy": result.noisy,
    }


def _advise(ui: Ui, table: LatencyTable, result: ProfileResult) -> None:
    if result.noisy <= result.rows / 2:
        return
    host = table.provenance()["sessions"][-1]["host"]
    slowest = max((r for r in table.rows()), key=lambda r: r.median_s)
    ui.say(
        f"many rows are noisy: load average was {host['load_1min']} on {host['cores']} cores, and one visit to "
        f"every workload is long (the slowest takes {ms(slowest.median_s)}); "
        f"quieten the machine or raise --budget-min"
    )


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    made = parser(
        "latency.profile", "Time every candidate op of a search space, and random whole networks, on a device."
    )
    made.add_argument("--device", default="cpu", help="a device by name, or a device file FILE.toml")
    made.add_argument("--space", default="proxyless", help="a search space by name, or FILE.py:NAME")
    made.add_argument("--networks", type=int, default=60, help="random whole networks to time beside the ops")
    made.add_argument("--few", type=int, help="time no ops, only the FEW random networks that tell most of the others")
    made.add_argument("--prior", nargs="+", default=[], metavar="PKL", help="with --few: predictors of other devices")
    made.add_argument("--budget-min", type=float, default=2.0, help="minutes of timing at most")
    made.add_argument(
        "--target-ci",
        type=float,
        default=0.02,
        help="done when half the 95%% interval of the median is below this fraction of it",
    )
    made.add_argument("--seed", type=int, default=0, help="of the random networks and the order of visits")
    made.add_argument("--out", help="the table to write (default tables/DEVICE.csv)")
    made.add_argument("--overwrite", action="store_true", help="begin the table anew")
    return run(_work, made.parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
