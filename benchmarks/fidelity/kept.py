"""What a long benchmark has measured so far, kept in a file: started again with the same arguments it goes on from there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class KeptError(ValueError):
    """The file is of another benchmark or of other arguments."""


class Kept:
    """One JSON line per result, after one with the arguments; without a path results are kept in memory alone."""

    def __init__(self, path: Path | None, arguments: dict[str, Any]) -> None:
        """Raises `KeptError` where the file cannot be gone on with."""
        self._path = path
        self._results: dict[str, Any] = {}
        if path is None:
            return
        if not path.exists():
            path.write_text(json.dumps(arguments) + "\n")
            return
        first, *rows = path.read_text().splitlines() or ["null"]
        if json.loads(first) != arguments:
            raise KeptError(
                f"{path} was begun with other arguments ({first}); name another file or remove it"
            )
        for row in rows:
            name, value = json.loads(row)
            self._results[name] = value

    def __contains__(self, name: str) -> bool:
        return name in self._results

    def __getitem__(self, name: str) -> Any:
        return self._results[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._results[name] = value
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps([name, value]) + "\n")
