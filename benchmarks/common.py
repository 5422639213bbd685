"""What every result says of itself: the machine and the date."""

from __future__ import annotations

import json
import platform
import time
from pathlib import Path
from typing import Any


def about() -> dict[str, str]:
    """Machine, processor and date (UTC) of this run."""
    return {"machine": f"{platform.machine()}, {cpu_name()}", "date": time.strftime("%Y-%m-%d", time.gmtime())}


def cpu_name() -> str:
    """The processor's model."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def save(path: Path, result: dict[str, Any]) -> None:
    """Write `result` as JSON, sorted, so that runs can be compared line by line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")
