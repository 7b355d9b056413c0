"""From replays to numbers: goodput at SLO over all arrivals, per load, per block of time, per slice."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autopoiesis.contracts.messages.policy import Score
from autopoiesis.simulator.statistics import Counts, block_count, met_per_block


@dataclass(frozen=True, slots=True)
class Replay:
    """One policy on one trace at one load with one seed. Arrays have one element per scored arrival, in the trace's order."""

    load: float
    seed: int
    span_s: float
    """Length of the scored window."""
    arrival_s: NDArray[np.float64]
    """In the trace, from the start of the scored window: the same for every policy with this load and seed."""
    klass: NDArray[np.str_]
    gpu: NDArray[np.str_]
    """Type that served it, empty if none did."""
    met: NDArray[np.bool_]
    """Finished within its objectives. Rejects, failures and late answers are misses."""
    rejected: NDArray[np.bool_]
    ttft_s: NDArray[np.float64]
    """Not a number without a first token."""
    tpot_s: NDArray[np.float64]
    """Not a number with fewer than two tokens."""
    faults: int = 0
    fuel: int = 0

    @property
    def arrivals(self) -> int:
        return len(self.met)


def score(replays: Sequence[Replay]) -> Score:
    """All seeds of one load as one score."""
    arrivals = sum(replay.arrivals for replay in replays)
    met = sum(int(replay.met.sum()) for replay in replays)
    rejected = sum(int(replay.rejected.sum()) for replay in replays)
    return Score(
        load=replays[0].load,
        goodput=met / sum(replay.span_s for replay in replays),
        attainment=met / max(arrivals, 1),
        rejected=rejected / max(arrivals, 1),
        ttft_p95_s=_p95(replay.ttft_s for replay in replays),
        tpot_p95_s=_p95(replay.tpot_s for replay in replays),
    )


def scores(replays: Sequence[Replay]) -> tuple[Score, ...]:
    """One score per load, in rising order."""
    loads = sorted({replay.load for replay in replays})
    return tuple(score([replay for replay in replays if replay.load == load]) for load in loads)


def goodput(replays: Iterable[Replay]) -> float:
    """Mean over loads and seeds, requests per second."""
    rates = [replay.met.sum() / replay.span_s for replay in replays]
    return float(np.mean(rates))


def blocks(replays: Sequence[Replay], block_s: float) -> Counts:
    """Requests that met their SLO by block of arrival time, loads and seeds together, shape (blocks,).

    Blocks are those of `block_count`. Raises TooFewBlocksError.
    """
    span = max(replay.span_s for replay in replays)
    count = block_count(span, block_s)
    parts = [met_per_block(r.arrival_s, r.met, span_s=span, count=count) for r in replays]
    total: Counts = np.sum(parts, axis=0)
    return total


def fuel_mean(replays: Iterable[Replay]) -> float:
    """Fuel per arrival."""
    pairs = [(replay.fuel, replay.arrivals) for replay in replays]
    return sum(fuel for fuel, _ in pairs) / max(sum(arrivals for _, arrivals in pairs), 1)


def losses(candidate: Sequence[Replay], incumbent: Sequence[Replay], slice_: str) -> dict[str, float]:
    """Attainment that each class (`slice_` "klass") or GPU type ("gpu") loses against the incumbent, the most in any load.

    A slice that either policy left without a request is left out.
    """
    worst: dict[str, float] = {}
    for load in {replay.load for replay in candidate}:
        ours, theirs = (
            _attainment([replay for replay in side if replay.load == load], slice_)
            for side in (candidate, incumbent)
        )
        for name in ours.keys() & theirs.keys():
            worst[name] = max(worst.get(name, -1.0), theirs[name] - ours[name])
    return dict(sorted(worst.items()))


def _attainment(replays: Sequence[Replay], slice_: str) -> dict[str, float]:
    names = np.concatenate([getattr(replay, slice_) for replay in replays])
    met = np.concatenate([replay.met for replay in replays])
    return {str(name): float(met[names == name].mean()) for name in np.unique(names) if name}


def _p95(columns: Iterable[NDArray[np.float64]]) -> float:
    values = np.concatenate(list(columns))
    known = values[~np.isnan(values)]
    return float(np.quantile(known, 0.95)) if len(known) else 0.0
