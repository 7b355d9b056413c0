"""The interval of the paired gain: pinned properties, and its real coverage."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from autopoiesis.simulator.statistics import TooFewBlocksError, paired_gain

counts = arrays.arrays(np.int64, st.shared(st.integers(4, 20), key="n"), elements=st.integers(0, 200))


@given(counts, counts, st.integers(0, 2**63 - 1))
@settings(max_examples=60, deadline=None)
def test_interval_holds_its_centre_and_repeats(ours: np.ndarray, theirs: np.ndarray, seed: int) -> None:
    gain = paired_gain(ours, theirs, confidence=0.95, seed=seed, resamples=500)
    assert gain.low <= gain.high
    assert gain == paired_gain(ours, theirs, confidence=0.95, seed=seed, resamples=500)
    wider = paired_gain(ours, theirs, confidence=0.99, seed=seed, resamples=500)
    assert wider.low <= gain.low
    assert wider.high >= gain.high


@given(counts, st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_a_policy_never_beats_itself(same: np.ndarray, seed: int) -> None:
    gain = paired_gain(same, same, confidence=0.9, seed=seed, resamples=200)
    assert (gain.gain, gain.low, gain.high) == (0.0, 0.0, 0.0)


def test_a_constant_gain_is_certain() -> None:
    theirs = np.array([100, 100, 200, 50, 400])
    gain = paired_gain(theirs * 11 // 10, theirs, confidence=0.95, seed=1)
    assert gain.gain == pytest.approx(0.1)
    assert gain.low == pytest.approx(0.1)
    assert gain.high == pytest.approx(0.1)


def test_one_lucky_block_is_not_significant() -> None:
    theirs = np.full(12, 100)
    ours = theirs.copy()
    ours[3] += 90
    gain = paired_gain(ours, theirs, confidence=0.95, seed=1)
    assert gain.gain > 0.05
    assert gain.low <= 0.0


def test_with_many_blocks_it_is_the_interval_of_the_ratios_mean() -> None:
    generator = np.random.default_rng(3)
    theirs = generator.integers(80, 120, 400)
    ours = theirs + generator.integers(-5, 25, 400)
    gain = paired_gain(ours, theirs, confidence=0.95, seed=1)
    residuals = ours - (1 + gain.gain) * theirs
    error = residuals.std(ddof=1) / np.sqrt(400) / theirs.mean()
    assert gain.high - gain.low == pytest.approx(2 * 1.966 * error, rel=0.06)


@pytest.mark.parametrize("blocks", [4, 6, 12])
def test_false_promotions_stay_near_the_nominal_rate(blocks: int) -> None:
    """Two policies that are equal in truth: the lower bound may exceed zero in 2.5 % of the cases."""
    generator = np.random.default_rng(7)
    trials = 600
    fates = np.rint(100 + generator.normal(0.0, 12.0, size=(trials, 2, blocks))).astype(np.int64)
    wrong = sum(
        paired_gain(ours, theirs, confidence=0.95, seed=trial, resamples=400).low > 0
        for trial, (ours, theirs) in enumerate(fates)
    )
    assert wrong / trials < 0.045


def test_too_few_blocks_are_refused() -> None:
    with pytest.raises(TooFewBlocksError, match="3 blocks"):
        paired_gain(np.ones(3, np.int64), np.ones(3, np.int64), confidence=0.95, seed=1)
    with pytest.raises(ValueError, match="must match"):
        paired_gain(np.ones(5, np.int64), np.ones(6, np.int64), confidence=0.95, seed=1)
