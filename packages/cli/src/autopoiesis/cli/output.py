"""What commands print: tables for people, JSON for scripts."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

WIDTH_OF_FILES = 200


def _console() -> Console:
    """As wide as the terminal; wide enough to be searched where there is none."""
    made = Console()
    return made if made.is_terminal else Console(width=WIDTH_OF_FILES)


console = _console()
progress = Console(stderr=True)
"""Progress and notes go to stderr, so that `--json` on stdout stays parseable."""


class CommandError(RuntimeError):
    """A command cannot do what was asked; the message says why and what to do."""


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    grid = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in columns:
        grid.add_column(column, overflow="fold")
    for row in rows:
        grid.add_row(*("" if cell is None else str(cell) for cell in row))
    return grid


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")
    sys.stdout.flush()
