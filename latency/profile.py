"""`python -m latency.profile --device cpu`: time every op of a space, and random whole networks, into a table."""

from __future__ import annotations

import argparse
import math
import random
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devices.errors import UserError
from latency.console import Ui, parser, run
from latency.targets import add_device_arguments, target
from latency.workloads import FEW_POOL, few_workloads, workloads

if TYPE_CHECKING:
    from devices.base import Device, DeviceError
    from latency.measure import Measurement, Policy, Workload
    from latency.repeat import BetweenSessions
    from latency.space import SearchSpace
    from latency.table import LatencyTable, Row


KERNELS = "kernels"  # the space of latency/kernel_space.py: no choices, any network
SHOWN = 3  # workloads that could not be prepared, told with their reason
REPEAT_BUDGET = 0.08  # share of the budget in which a few workloads are measured again in a second session


@dataclass(frozen=True)
class ProfileResult:
    """What a profile came to. `seconds` is the wall time of this run, preparing included."""

    device: str
    rows: int
    networks: int
    seconds: float
    noisy: int
    failed: int
    between: BetweenSessions | None = None
    advice: tuple[str, ...] = ()


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

    Raises TableError where the table is of another device; UserError where the space is too small, or nothing is timed.
    """
    from latency.host import HostWatch, advice, host_state
    from latency.measure import prepare, run_rounds
    from latency.repeat import repeat
    from latency.resume import saved, ties
    from latency.table import workload_id

    ui, began = ui or Ui(), time.monotonic()
    todo = workloads(space, networks, seed) if only is None else only
    before, watch, fingerprint = host_state(), HostWatch(), device.describe()
    session = table.start(
        fingerprint,
        {
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "space": space.name,
            "networks": networks if only is None else len(only),
            "seed": seed,
            "target": policy.target,
            "budget_s": policy.budget_s,
            "host": before,
        },
    )
    have = {row.op for row in table.rows()}
    progress = saved(table, todo)
    left = [w for w in todo if w.key not in have]
    if len(left) < len(todo) or progress.samples:
        ui.say(
            f"going on: {len(todo) - len(left)} of {len(todo)} workloads are in {table.path}, "
            f"{progress.next_round} rounds of the others are kept"
        )
    failed: dict[str, str] = {}
    between: BetweenSessions | None = None
    if left:
        rng = random.Random(f"{seed}/{session}")
        n = policy.sentinels * int(getattr(device, "width", 1))
        again = ties([w for w in todo if w.key in have], progress, n, rng)
        with ui.progress("preparing") as report:
            sessions, failed = prepare(device, [*left, *again], report)
        failed = {key: why for key, why in failed.items() if key not in have}
        for key, why in list(failed.items())[:SHOWN]:
            ui.warn(f"{key[:100]}: {' '.join(why.split())}; left out")
        if len(failed) > SHOWN:
            ui.warn(
                f"{len(failed) - SHOWN} more could not be prepared and are left out; {table.json_path} will tell why"
            )

        def on_failed(key: str, error: DeviceError) -> None:
            failed[key] = str(error)
            ui.warn(f"{key[:100]}: {error}; left out")

        scaled = False

        def on_done(measurement: Measurement) -> None:
            nonlocal scaled
            if not scaled:  # of all rows of this session, until it ends
                table.update_session(scale=measurement.scale)
                scaled = True
            table.append(to_row(measurement, session))

        try:
            with ui.progress("timing") as report:
                measured = run_rounds(
                    sessions,
                    left,
                    replace(policy, budget_s=policy.budget_s * (1 - REPEAT_BUDGET)),
                    rng,
                    progress,
                    report=report,
                    before=again,
                    on_round=lambda r, taken: table.append_samples(session, r, [(workload_id(k), s) for k, s in taken]),
                    on_done=on_done,
                    on_failed=on_failed,
                )
            table.settle([to_row(m, session) for m in measured])
            if measured:
                table.update_session(scale=measured[0].scale)
            notes = {workload_id(k): s.notes() for k, s in sessions.items() if hasattr(s, "notes")}
            table.update_session(**({"notes": notes} if notes else {}))
            with ui.progress("repeating a few in a second session") as report:
                between = repeat(
                    device,
                    [w for w in todo if w.key not in failed],
                    {row.op: row.median_s for row in table.rows()},
                    replace(policy, budget_s=policy.budget_s * REPEAT_BUDGET),
                    random.Random(f"{seed}/{session}/repeat"),
                    report,
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
                host_after=watch.facts(),
                **({"device_state": device.state()} if hasattr(device, "state") else {}),
                between_sessions=between.as_dict() if between else None,
            )
    wanted = {w.key for w in todo}
    rows = [row for row in table.rows() if row.op in wanted]
    if not rows:
        first = next((f"the first: {key[:100]}: {why}" for key, why in failed.items()), "--budget-min is too short")
        raise UserError(f"none of the {len(todo)} workloads could be measured; {first}")
    return ProfileResult(
        str(device.describe()["device"]),
        len(rows),
        sum(r.kind == "network" for r in rows),
        time.monotonic() - began,
        sum("noisy" in r.flags for r in rows),
        len(failed),
        between,
        tuple(
            advice(
                rows,
                policy.target,
                policy.budget_s,
                before,
                watch.facts(),
                between.as_dict() if between else None,
                str(fingerprint.get("governor", "")),
                on_this_host="cpu" in fingerprint,
            )
        )
        if left
        else (),
    )


def to_row(measurement: Measurement, session: int) -> Row:
    """The table row of a measurement: statistics of the samples with round factors divided out; min_s is raw."""
    import numpy as np

    from latency.stats import widened
    from latency.table import Row

    low, high = measurement.ci_s
    corrected = measurement.corrected_s
    if len(corrected) < 6:  # no 95 % interval exists: the range is the widest honest statement
        ends = float(corrected.min()), float(corrected.max())
        low, high = widened(ends, measurement.median_s, measurement.scale)
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


def _work(ui: Ui, args: argparse.Namespace) -> dict[str, Any]:
    if args.list or args.doctor:
        from latency.doctor import doctor, list_devices

        return list_devices(ui) if args.list else doctor(ui, args)
    import devices
    from latency.measure import Policy
    from latency.space import load_space
    from latency.table import LatencyTable

    if args.networks < 0:
        raise UserError(f"--networks {args.networks} must be at least 0")
    for name in ("budget_min", "target_ci"):
        if not 0 < getattr(args, name) < math.inf:
            raise UserError(f"--{name.replace('_', '-')} {getattr(args, name)} must be a number above 0")
    devices.find(args.device)  # an unknown device is said before anything is built
    name = Path(args.device).stem
    of_kernels = args.space == KERNELS
    space = None if of_kernels else load_space(args.space)
    table = LatencyTable(Path(args.out or f"tables/{name}{'-kernels' if of_kernels else ''}.csv"))
    if table.path.suffix != ".csv":
        raise UserError(f"--out {args.out}: a table is a .csv file")
    policy = Policy(target=args.target_ci, budget_s=args.budget_min * 60)
    only = None
    if space is None:
        if args.few is not None or args.prior:
            raise UserError("--few and --prior go with a search space; kernels are drawn, see --networks")
        from latency.kernel_profile import profile_command

        return _told(ui, args, table, profile_command(ui, args, table, policy))
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
    with target(args, ui) as device:
        if args.overwrite:
            table.remove()
        ui.say(
            f"profiling '{space.name}' on {args.device}: {what} "
            f"networks, at most {args.budget_min:g} min of timing, into {table.path}"
        )
        result = profile(device, space, table, policy, networks=args.networks, seed=args.seed, ui=ui, only=only)
    return _told(ui, args, table, result)


def _told(ui: Ui, args: argparse.Namespace, table: LatencyTable, result: ProfileResult) -> dict[str, Any]:
    ui.say(
        f"{table.path}: {result.rows} rows ({result.networks} networks) in {result.seconds:.0f} s; "
        f"{result.noisy} have an interval wider than {args.target_ci * 100:g}% (flag noisy)"
        + (f"; {result.failed} failed, see {table.json_path}" if result.failed else "")
    )
    if result.between:
        b = result.between
        ui.say(
            f"{b.n} workloads measured again in a second session: all {b.shift:+.1%}, each beyond that "
            f"{b.spread:.1%} in the middle and {b.worst:.1%} at most (their own noise explains {b.noise:.1%})"
        )
    for line in result.advice:
        ui.say(line)
    ui.say("next: python -m latency.fit" + ("" if args.few is None else f" {table.path}, with --transfer-from PKL ..."))
    return {
        "device": result.device,
        "rows": result.rows,
        "networks": result.networks,
        "seconds": round(result.seconds, 1),
        "noisy": result.noisy,
    }


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    made = parser(
        "latency.profile", "Time every candidate op of a search space, and random whole networks, on a device."
    )
    add_device_arguments(made)
    made.add_argument("--list", action="store_true", help="list the devices, and what is attached")
    made.add_argument("--doctor", metavar="DEVICE", help="say whether a device is ready, and why not")
    made.add_argument("--space", default="proxyless", help="a search space by name, FILE.py:NAME, or kernels")
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
