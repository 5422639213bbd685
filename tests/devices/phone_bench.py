"""The test phone's processor: a process that runs .tflite models through LiteRT for the phone's `benchmark_model`.

`python -m tests.devices.phone_bench SOCKET`: each connection brings one command line (JSON), and gets what the real
program would print. Inferences are really run and timed, one by one. Each phone has a JSON file, CONTROL, that says
which generation's text to print and which faults to show; see `Bench.run`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socketserver
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from tests.devices.texts import Run, render

FLAGS = {
    "graph", "num_runs", "min_secs", "max_secs", "run_delay", "warmup_runs", "warmup_min_secs", "num_threads", "verbose",
    "use_xnnpack", "use_gpu", "use_nnapi", "enable_op_profiling",
}  # fmt: skip


class Bench:
    """The runs of all phones, one after another."""

    def __init__(self) -> None:
        self.models: dict[tuple[str, int, bool], tuple[Interpreter, float]] = {}
        self.shown: dict[str, int] = {}

    def run(self, argv: list[str], folder: str, control: dict[str, Any]) -> dict[str, Any]:
        """`{"out", "err", "code", "signal"}` of one command line.

        CONTROL: `generation`; `unknown` flags that this build does not know; `fallback` (the delegate takes nothing);
        `slow` (factor on every time: a slower phone); `faults`: model file or "*" -> one of `signal`, `garbage`,
        `cut` (share of the text that arrives), `sleep` (seconds), with `times`, how often it is shown (default always).
        """
        flags = dict(a.removeprefix("--").partition("=")[::2] for a in argv)
        known = FLAGS - set(control.get("unknown", ()))
        ignored = [a for a in argv if a.removeprefix("--").partition("=")[0] not in known]
        warning = f"WARN: Unconsumed cmdline flags: {' '.join(ignored)}\n" if ignored else ""
        graph = Path(folder, flags.get("graph", ""))
        if not graph.is_file():
            return reply(warning, f"ERROR: Could not open '{graph}'.\nERROR: Failed to load model {graph}\n", 1)
        fault = self._fault(control, graph.name)
        if "sleep" in fault:
            time.sleep(fault["sleep"])
        if "signal" in fault:
            return reply(warning + "STARTING!\n", "", 0, fault["signal"])
        try:
            run = self._measure(graph, flags, control.get("slow", 1.0))
        except (ValueError, RuntimeError) as error:
            return reply(warning + "STARTING!\n", f"ERROR: {error}\nERROR: Failed to load model {graph}\n", 1)
        tick(Path(control["phone"]), sum(run.warmup_us) + sum(run.runs_us))
        text = warning + render(
            control.get("generation", "classic"), run, said(flags, control), flags.get("enable_op_profiling") == "true"
        )
        if "garbage" in fault:
            text = text[: len(text) // 3] + "\x00\x1b[31m\ufffdcount=7 curr=" + text[len(text) // 2 :: 3]
        if "cut" in fault:
            text = text[: int(len(text) * fault["cut"])]
        return reply(text, "", 0)

    def _fault(self, control: dict[str, Any], model: str) -> dict[str, Any]:
        faults = control.get("faults", {})
        key = model if model in faults else "*"
        fault: dict[str, Any] = faults.get(key, {})
        shown = f"{control['phone']} {key} {json.dumps(fault)}"
        if not fault or self.shown.get(shown, 0) >= fault.get("times", 1 << 30):
            return {}
        self.shown[shown] = self.shown.get(shown, 0) + 1
        return fault

    def _measure(self, graph: Path, flags: dict[str, str], slow: float) -> Run:
        threads, xnnpack = int(flags.get("num_threads", "-1")), flags.get("use_xnnpack", "true") == "true"
        key = (str(graph), threads, xnnpack)
        if key not in self.models:
            start = time.perf_counter()
            kind = OpResolverType.AUTO if xnnpack else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
            model = Interpreter(str(graph), num_threads=threads, experimental_op_resolver_type=kind)
            model.allocate_tensors()
            for details in model.get_input_details():
                rng = np.random.default_rng(0)
                model.set_tensor(details["index"], rng.standard_normal(details["shape"]).astype(details["dtype"]))
            self.models[key] = model, time.perf_counter() - start
        model, init_s = self.models[key]

        def once() -> int:
            start = time.perf_counter_ns()
            model.invoke()
            return max(1, round((time.perf_counter_ns() - start) * slow / 1e3))

        def phase(runs: int, least_s: float) -> list[int]:
            found: list[int] = []
            start = time.monotonic()
            while len(found) < runs or time.monotonic() - start < least_s:
                found.append(once())
            return found

        warmup = phase(max(1, int(flags.get("warmup_runs", "1"))), float(flags.get("warmup_min_secs", "0.5")))
        runs = phase(int(flags.get("num_runs", "50")), float(flags.get("min_secs", "1")))
        return Run(warmup, runs, round(init_s * 1e6), nodes(model, sum(runs) / len(runs)))


def tick(root: Path, microseconds: float) -> None:
    """The phone's clocks count that long at their highest frequency, in ticks of 10 ms, one at least."""
    for file in {f.resolve() for f in (root / "sys/devices/system/cpu").glob("*/*/stats/time_in_state")}:
        *lower, (khz, ticks) = (map(int, line.split()) for line in file.read_text().splitlines())
        lines = [*lower, (khz, ticks + max(1, round(microseconds / 1e4)))]
        new = file.with_suffix(".new")
        new.write_text("".join(f"{khz} {ticks}\n" for khz, ticks in lines))
        new.replace(file)


def nodes(model: Interpreter, mean_us: float) -> list[tuple[str, str, float]]:
    """Rows for the op table: the model's real ops; the time is shared out evenly (LiteRT's Python tells no more)."""
    found = [d["op_name"] for d in model._get_ops_details() if d["op_name"] != "DELEGATE"]
    return [(name, f"[{name.lower()}]:{i}", mean_us / len(found)) for i, name in enumerate(found)]


def said(flags: dict[str, str], control: dict[str, Any]) -> list[str]:
    """What the program says of delegates."""
    lines = []
    for flag, name in (("use_gpu", "GPU"), ("use_nnapi", "NNAPI"), ("use_xnnpack", "XNNPACK")):
        if flags.get(flag) != "true":
            continue
        lines.append(
            f"Though {name} delegate is explicitly applied, the model graph will not be executed by the delegate."
            if control.get("fallback")
            else f"Explicitly applied {name} delegate, and the model graph will be completely executed by the delegate."
        )
    return lines


def reply(out: str, err: str, code: int, number: int = 0) -> dict[str, Any]:
    return {"out": out, "err": err, "code": code, "signal": number}


def main() -> None:
    """Serve until killed, or until the parent is gone."""
    bench = Bench()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            folder, control, *argv = self.rfile.readline().decode().rstrip("\n").split("\0")
            with Path(control).with_name("invocations.log").open("a") as log:
                log.write(f"{argv}\n")
            answer = bench.run(argv, folder, json.loads(Path(control).read_text()))
            out, err = answer["out"].encode(), answer["err"].encode()
            with contextlib.suppress(BrokenPipeError):  # the phone dropped, and its processes with it
                self.wfile.write(f"{answer['code']} {answer['signal']} {len(out)}\n".encode() + out + err)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = os.getppid()
    with socketserver.UnixStreamServer(sys.argv[1], Handler) as server:
        server.timeout = 1.0
        print("ready", flush=True)
        while os.getppid() == parent:
            server.handle_request()


if __name__ == "__main__":
    main()
