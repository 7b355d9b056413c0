"""How much better one policy is than another on the same arrivals, and how sure that is.

Both policies replay the same trace with the same seeds, so the comparison is paired. Requests that arrive close together
share their fate, and queues carry it on for as long as requests last; so the unit that is resampled is a block of time that
is longer than that (block bootstrap). There are few such blocks. Quantiles of the resampled gains are then too narrow,
because no resample can be worse than the worst block; therefore the resampling gives the standard error alone, and the
interval takes Student's t with one degree of freedom per block but one (Hesterberg 2015, "What Teachers Should Know About
the Bootstrap": t interval with bootstrap standard error), on the logarithm of the ratio, which is symmetric.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

RESAMPLES = 4000
MIN_BLOCKS = 4
"""Fewer blocks say nothing about their spread."""
LEAST_BLOCK_S = 2.0

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Gain:
    """Relative difference in requests that met their SLO: 0.1 means 10 % more."""

    gain: float
    low: float
    high: float
    blocks: int


class TooFewBlocksError(ValueError):
    """Not enough blocks of time for an interval."""


def block_count(span_s: float, block_s: float) -> int:
    """How many equal blocks of at least `block_s` seconds `span_s` seconds hold.

    Shorter ones only where there would be less than MIN_BLOCKS of them. Raises TooFewBlocksError where they would then be
    shorter than LEAST_BLOCK_S.
    """
    count = max(MIN_BLOCKS, int(span_s // block_s))
    if span_s / count < LEAST_BLOCK_S:
        raise TooFewBlocksError(
            f"{span_s:.1f} s of scored arrivals; at least {MIN_BLOCKS * LEAST_BLOCK_S:g} s are needed for an interval"
        )
    return count


def met_per_block(
    arrival_s: NDArray[np.float64], met: NDArray[np.bool_], *, span_s: float, count: int
) -> Counts:
    """Requests that met their SLO by block of arrival time, shape (count,). `arrival_s` is from the scored window's start."""
    number = np.clip((arrival_s * count // span_s).astype(np.int64), 0, count - 1)
    return np.bincount(number, weights=met, minlength=count).astype(np.int64)


def paired_gain(
    candidate: Counts, incumbent: Counts, *, confidence: float, seed: int, resamples: int = RESAMPLES
) -> Gain:
    """Two-sided interval of the relative gain in goodput.

    `candidate` and `incumbent`: requests that met their SLO, shape (blocks,), summed over loads and seeds, over the same
    arrivals. `confidence` is the interval's, in (0, 1). Deterministic by `seed`. Raises TooFewBlocksError.
    """
    blocks = len(candidate)
    if candidate.shape != incumbent.shape or candidate.ndim != 1:
        raise ValueError(f"paired blocks must match: {candidate.shape} against {incumbent.shape}")
    if blocks < MIN_BLOCKS:
        raise TooFewBlocksError(f"{blocks} blocks of time; at least {MIN_BLOCKS} are needed for an interval")
    picks = np.random.default_rng(seed).integers(0, blocks, size=(resamples, blocks))
    resampled = _log_ratio(candidate[picks].sum(axis=1), incumbent[picks].sum(axis=1))
    error = float(resampled.std()) * math.sqrt(blocks / (blocks - 1))
    reach = float(stdtrit(blocks - 1, (1.0 + confidence) / 2.0)) * error
    centre = float(_log_ratio(candidate.sum(keepdims=True), incumbent.sum(keepdims=True))[0])
    return Gain(math.expm1(centre), math.expm1(centre - reach), math.expm1(centre + reach), blocks)


def _log_ratio(ours: Counts, theirs: Counts) -> NDArray[np.float64]:
    """A sum of nothing counts as one request."""
    return np.log(np.maximum(ours, 1) / np.maximum(theirs, 1))
