"""Finished pieces of a long benchmark, kept in a file of JSON lines: a second run goes on where the first ended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class WorkLog:
    """Outcomes by what they are the outcome of: a list of texts, numbers and settings."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.done = {json.dumps(row["what"]): row for row in map(json.loads, lines)}

    def get(self, what: list[Any]) -> dict[str, Any] | None:
        """The outcome of `what`, if it has been done."""
        return self.done.get(json.dumps(what))

    def add(self, what: list[Any], **outcome: Any) -> dict[str, Any]:
        """Write down that `what` is done."""
        row = {"what": what, **outcome}
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        self.done[json.dumps(what)] = row
        return row
