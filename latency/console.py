"""What the CLIs share: one way to talk, to show progress, to fail, and to stop."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from devices.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

QUIET_EVERY_S = 15.0

#: Progress callback: (done, total, note). `total` may change while the work goes on.
Report = Callable[[float, float, str], None]


def quiet(done: float, total: float, note: str) -> None:
    """A Report that shows nothing."""


class Ui:
    """Human text on stdout, or on stderr where stdout carries the one line of --json."""

    def __init__(self, as_json: bool = False) -> None:
        from rich.console import Console

        self.as_json = as_json
        file = sys.stderr if as_json else sys.stdout
        width = None if file.isatty() else 120  # in a file or a pipe, tables need not fit a terminal of 80
        self.console: Console = Console(file=file, highlight=False, soft_wrap=True, width=width)

    def say(self, text: str) -> None:
        """One line (or more) of plain human text."""
        self.console.print(text, markup=False)

    def warn(self, text: str) -> None:
        """A warning, always on stderr; in one write, for threads that warn at once."""
        sys.stderr.write(f"warning: {text}\n")

    def table(self, title: str, columns: list[str], rows: list[list[str]]) -> None:
        """A small table; numbers are formatted by the caller."""
        from rich.table import Table

        table = Table(title=title, title_justify="left")
        for i, column in enumerate(columns):
            table.add_column(column, justify="left" if i == 0 else "right")
        for row in rows:
            table.add_row(*row)
        self.console.print(table)

    @contextmanager
    def progress(self, title: str) -> Iterator[Report]:
        """A bar with ETA on a terminal; elsewhere one plain line every 15 s."""
        if self.console.is_terminal:
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
            )
            with Progress(*columns, console=self.console) as bar:
                task = bar.add_task(title, total=1.0, note="")
                yield lambda done, total, note: bar.update(task, completed=done, total=total, note=note)
            return
        last = time.monotonic()

        def report(done: float, total: float, note: str) -> None:
            nonlocal last
            if time.monotonic() - last >= QUIET_EVERY_S:
                last = time.monotonic()
                self.say(f"{title}: {done / total:.0%} {note}" if total else f"{title}: {note}")

        yield report


def parser(module: str, description: str) -> argparse.ArgumentParser:
    """An argument parser with what all CLIs have: --json, and exit 2 with one line on bad usage."""
    made = _OneLineParser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
    made.add_argument(
        "--json", action="store_true", help="print one machine-readable line on stdout, human text on stderr"
    )
    return made


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Says the default where there is one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False, []) else super()._get_help_string(action)


class _OneLineParser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        print(f"error: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)


def run(work: Callable[[Ui, argparse.Namespace], dict[str, Any] | None], args: argparse.Namespace) -> int:
    """Do `work` and return the exit code: 0, 2 with one line for a user's error, 130 on Ctrl-C."""
    ui = Ui(args.json)
    try:
        result = work(ui, args)
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(
            f"interrupted: {str(stop) or 'what was finished is saved; run the same command again to go on'}",
            file=sys.stderr,
        )
        return 130
    except BrokenPipeError:
        return 1
    if args.json and result is not None:
        print(json.dumps(result, allow_nan=False))
    return int((result or {}).get("exit_code", 0))


def ms(seconds: float) -> str:
    """Seconds as text in milliseconds: the one place where "12.3 ms" is made."""
    value = seconds * 1e3
    return f"{value:.1f} ms" if value >= 100 else f"{value:.2f} ms" if value >= 10 else f"{value:.3f} ms"
