"""Who is best on the same traffic, and which differences are within its noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from autopoiesis.simulator.extras import pandas
from autopoiesis.simulator.statistics import Counts, Gain, TooFewBlocksError, paired_gain

if TYPE_CHECKING:
    import pandas as pd

BOOTSTRAP_SEED = 0


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """One policy at one load with one seed, reduced to figures so that hundreds fit in memory."""

    policy: str
    """Its label."""
    load: float
    seed: int
    figures: Mapping[str, float]
    """`Run.summary()`."""
    by_class: Mapping[str, float]
    by_gpu: Mapping[str, float]
    faults: Mapping[str, int]
    met: Counts
    """Arrivals that met their objectives, per block of arrival time."""
    ttft_s: NDArray[np.float64]
    """Quantiles at equal steps of share, 0 to 1, over all scored arrivals; infinite for those without a first token."""


@dataclass(frozen=True, slots=True)
class Standing:
    """One policy's place."""

    rank: int
    policy: str
    group: int | None
    """1 holds the best and all within noise of it, 2 the best of the rest and those of the rest within noise of that, and so on.

    None where the traffic is too short for intervals.
    """
    against_best: Gain | None
    """Relative difference in requests that met their objectives; its interval is simultaneous over all policies."""
    figures: Mapping[str, float]
    """Means over loads and seeds."""


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """Several policies on exactly the same arrivals."""

    cells: tuple[Cell, ...]
    span_s: float
    """Length of the scored window."""
    confidence: float = 0.95
    """That every statement about a group holds at once."""

    def __repr__(self) -> str:
        loads = ", ".join(f"{load:g}" for load in self.loads)
        best = [standing.policy for standing in self.ranking()[:3]]
        return f"<Comparison of {len(self.policies)} policies at loads {loads}; best {', '.join(best)}>"

    @property
    def policies(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(cell.policy for cell in self.cells))

    @property
    def loads(self) -> tuple[float, ...]:
        return tuple(sorted({cell.load for cell in self.cells}))

    @property
    def blocks(self) -> int:
        """Blocks of time that intervals resample."""
        return len(self.cells[0].met)

    @property
    def block_s(self) -> float:
        return self.span_s / self.blocks

    def at(self, load: float) -> Comparison:
        """The same at one load alone. Raises `KeyError` for a load that was not run."""
        if load not in self.loads:
            raise KeyError(f"load {load:g} was not run; there are {', '.join(f'{n:g}' for n in self.loads)}")
        return replace(self, cells=tuple(cell for cell in self.cells if cell.load == load))

    def of(self, policy: str) -> tuple[Cell, ...]:
        return tuple(cell for cell in self.cells if cell.policy == policy)

    def met(self, policy: str) -> Counts:
        """Requests of that policy that met their objectives, per block, loads and seeds together."""
        total: Counts = np.sum([cell.met for cell in self.of(policy)], axis=0)
        return total

    def gain(self, policy: str, over: str, *, confidence: float | None = None) -> Gain:
        """Paired difference of two policies. Raises `TooFewBlocksError` where the traffic is too short for an interval."""
        return paired_gain(
            self.met(policy),
            self.met(over),
            confidence=self.confidence if confidence is None else confidence,
            seed=BOOTSTRAP_SEED,
        )

    def ranking(self) -> list[Standing]:
        """Best first, by requests that met their objectives over all loads and seeds.

        The k - 1 intervals share the allowed error equally (Bonferroni). A policy leaves the first group only where it is below
        the best by more than that, so with the given confidence the truly best policy is in it.
        """
        order = sorted(self.policies, key=lambda name: (-int(self.met(name).sum()), name))
        single = 1.0 - (1.0 - self.confidence) / max(1, len(order) - 1)
        out: list[Standing] = []
        leaders: list[str] = []
        for rank, name in enumerate(order, 1):
            gain = self._known_gain(name, order[0], single)
            group = None
            if gain is not None:
                level = (
                    n
                    for n, other in enumerate(leaders)
                    if self.gain(name, other, confidence=single).high >= 0
                )
                group = next(level, len(leaders))
                if group == len(leaders):
                    leaders.append(name)
                group += 1
            out.append(Standing(rank, name, group, gain, _means(self.of(name))))
        return out

    def _known_gain(self, policy: str, over: str, confidence: float) -> Gain | None:
        try:
            return self.gain(policy, over, confidence=confidence)
        except TooFewBlocksError:
            return None

    def longer_than_blocks(self) -> dict[str, float]:
        """Policies whose requests outlast a block, so that blocks are not independent: 95th percentile to the end, seconds."""
        longest = {
            name: max(_known(cell.figures["e2e_s_p95"]) for cell in self.of(name)) for name in self.policies
        }
        return {name: seconds for name, seconds in longest.items() if seconds > self.block_s}

    def rows(self) -> list[dict[str, Any]]:
        """One flat row per load and policy, ranked within its load."""
        out: list[dict[str, Any]] = []
        for load in self.loads:
            for standing in self.at(load).ranking():
                gain = standing.against_best
                out.append(
                    {
                        **standing.figures,
                        "load": load,
                        "rank": standing.rank,
                        "policy": standing.policy,
                        "group": standing.group,
                        "gain": gain.gain if gain else math.nan,
                        "gain_low": gain.low if gain else math.nan,
                        "gain_high": gain.high if gain else math.nan,
                    }
                )
        return out

    def to_pandas(self) -> pd.DataFrame:
        """`rows` as a frame. Needs the extra `pandas`."""
        frame: pd.DataFrame = pandas().DataFrame(self.rows())
        return frame


def _means(cells: Sequence[Cell]) -> dict[str, float]:
    names = [name for name in cells[0].figures if name not in {"load", "seed"}]
    return {name: _mean([cell.figures[name] for cell in cells]) for name in names}


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _known(value: float) -> float:
    return 0.0 if math.isnan(value) else value
