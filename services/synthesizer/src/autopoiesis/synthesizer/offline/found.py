"""What a search came to: the winner, everything that was tried, and how the best do on traffic that nobody saw."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from autopoiesis.simulator import Comparison
from autopoiesis.simulator.extras import pandas
from autopoiesis.synthesizer.candidates import Scored

if TYPE_CHECKING:
    import pandas as pd

Arm = Literal["seed", "evolved", "control"]


@dataclass(frozen=True, slots=True)
class Tried:
    """One candidate in the order of the search, with its result."""

    number: int
    """Candidates before it."""
    generation: int
    """-1 for seeds."""
    arm: Arm
    policy: Scored
    final: bool
    """It came to the last stage: only these are comparable with the incumbent and with each other."""
    best: float
    """Best final fitness up to here; 1 is the incumbent's."""

    def row(self) -> dict[str, Any]:
        """Flat, for tables: goodput (requests per second within objectives) and attainment by load where it was final."""
        policy, result = self.policy, self.policy.result
        row: dict[str, Any] = {
            "number": self.number,
            "generation": self.generation,
            "arm": self.arm,
            "hash": policy.hash,
            "parents": " ".join(policy.parents),
            "origin": policy.origin,
            "title": policy.title,
            "final": self.final,
            "fitness": policy.fitness,
            "best": self.best,
            "faults": result.faults if result else 0,
        }
        for score in result.scores if result and self.final else ():
            row[f"goodput at {score.load:g}"] = score.goodput
            row[f"attainment at {score.load:g}"] = score.attainment
        return row


@dataclass(frozen=True)
class Found:
    """The outcome of `evolve`; the same is in the files of its folder."""

    folder: Path
    incumbent: Scored
    winner: Scored | None
    """The best that also beats the incumbent on seeds it was not chosen by; none where nothing does."""
    tried: tuple[Tried, ...]
    arms: Mapping[str, Any]
    """Evolution against as many independent drafts."""
    spent: Mapping[str, float]
    failures: tuple[str, ...]
    """Why drafts came to nothing."""
    holdout: Comparison | None
    """The winner, the incumbent and the best seeds on the end of the trace, which the search never saw; none without a winner."""

    def rows(self) -> list[dict[str, Any]]:
        return [one.row() for one in self.tried]

    def to_pandas(self) -> "pd.DataFrame":
        """One row per candidate. Needs the extra `pandas` of autopoiesis-simulator."""
        frame: pd.DataFrame = pandas().DataFrame(self.rows())
        return frame

    def lineage(self, hash_: str = "") -> list[Scored]:
        """A candidate (default: the winner) and its ancestors, nearest first. Raises KeyError for an unknown hash."""
        known = {one.policy.hash: one.policy for one in self.tried} | {self.incumbent.hash: self.incumbent}
        start = hash_ or (self.winner.hash if self.winner else self.incumbent.hash)
        line, waiting = {start: known[start]}, list(known[start].parents)
        while waiting:
            ancestor = known.get(waiting.pop(0))
            if ancestor is not None and ancestor.hash not in line:
                line[ancestor.hash] = ancestor
                waiting += ancestor.parents
        return list(line.values())

    def save(self) -> None:
        """candidates.csv, lineage.json, holdout.csv and winner.py, into its folder."""
        _table(self.folder / "candidates.csv", self.rows())
        _table(self.folder / "holdout.csv", self.holdout.rows() if self.holdout else [])
        winner = self.folder / "winner.py"
        winner.unlink(missing_ok=True)
        if self.winner is not None:
            winner.write_text(self.winner.source, encoding="utf-8")
        told = {
            "winner": self.winner.hash if self.winner else None,
            "incumbent": self.incumbent.hash,
            "spent": self.spent,
            "arms": self.arms,
            "failures": self.failures,
            "policies": {one.policy.hash: _told(one.policy) for one in self.tried}
            | {self.incumbent.hash: _told(self.incumbent)},
        }
        text = json.dumps(told, indent=1, allow_nan=False)
        (self.folder / "lineage.json").write_text(text + "\n", encoding="utf-8")


def _told(policy: Scored) -> dict[str, Any]:
    return {
        "title": policy.title,
        "origin": policy.origin,
        "parents": policy.parents,
        "fitness": policy.fitness if policy.result else None,
        "source": policy.source,
    }


def _table(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    file.unlink(missing_ok=True)
    if not rows:
        return
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with file.open("w", newline="", encoding="utf-8") as out:
        table = csv.DictWriter(out, columns)
        table.writeheader()
        table.writerows(rows)
