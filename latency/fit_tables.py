"""Tables that `latency.fit --show` and its page share: ops in networks, networks with something rare, resolutions."""

from __future__ import annotations

from typing import Any

from latency.console import ms

RARE_NOTE = (
    "All networks that hold an op with something rare left out of a fit at once, and all such ops timed alone; beside "
    "them, other networks that the same fit never saw."
)
RARE_HEAD = ["left out at once", "networks", "MAPE", "other unseen networks", "90 % intervals hold", "refused"]
CONTEXT_NOTE = (
    "The errors of ops told here are of ops timed alone. Inside a network an op takes another time (caches, what the "
    "blocks before it left there), which no measurement tells block by block: networks tell it, and their errors are "
    "those of networks. What the fit makes of it, over the ops of the measured networks, each as often as it occurs:"
)
CONTEXT_HEAD = ["kind", "different ops", "mean alone", "mean in a network", "ratio"]


SIZES_NOTE = (
    "All sizes of one input resolution left out of a fit at once: how far the sum of the ops there was off, and the "
    "standard error that the fit had of it by itself. From these comes by how much intervals of networks at sizes "
    "never measured are wider."
)
SIZES_HEAD = ["pixels, left out", "sum off by", "standard error"]


def size_rows(errors: dict[str, Any]) -> list[list[str]]:
    """A row per resolution left out, in the order of SIZES_HEAD; empty where there is one, and for older files."""
    each = errors.get("new_sizes", {}).get("resolutions", {})
    return [[size, f"{of['error']:+.2%}", f"{of['std']:.2%}"] for size, of in each.items()]


def rare_rows(errors: dict[str, Any]) -> list[list[str]]:
    """A row per trait of `network_extrapolation`, in the order of RARE_HEAD; empty for files that have none."""
    return [
        [
            name,
            f"{of['networks']}",
            _percent(of["mape"], 2),
            _percent(of.get("other_mape"), 2),
            _percent(of["coverage_90"]),
            f"{of['refused']} of {of['told'] + of['refused']}",
        ]
        for name, of in errors.get("network_extrapolation", {}).items()
    ]


def context_rows(errors: dict[str, Any]) -> list[list[str]]:
    """A row per kind of op, in the order of CONTEXT_HEAD; empty where networks add nothing to ops alone."""
    return [
        [kind, f"{of['ops']}", ms(of["alone_s"]), ms(of["network_s"]), f"{of['network_s'] / of['alone_s']:.3f}"]
        for kind, of in errors.get("context", {}).items()
    ]


def _percent(share: float | None, digits: int = 0) -> str:
    return "-" if share is None else f"{share:.{digits}%}"
