import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from autopoiesis.observer.drift import DriftDetector, DriftRule, compare, features, holm
from autopoiesis.observer.recent import ROW


def block(rng, *, size=300, rate=10.0, prompt=500, output=200, start=0.0, gap_shape=1.0):
    rows = np.zeros(size, ROW)
    rows["arrival_unix_s"] = start + np.cumsum(rng.gamma(gap_shape, 1 / rate / gap_shape, size))
    rows["prompt_tokens"] = rng.lognormal(np.log(prompt), 1.0, size)
    rows["output_tokens"] = rng.exponential(output, size)
    rows["finished"] = True
    return rows


def run(detector, blocks):
    return [shift.feature for rows in blocks for shift in detector.offer(rows)]


def test_identical_distributions_rarely_fire():
    rng = np.random.default_rng(1)
    fired = [run(DriftDetector(), [block(rng) for _ in range(30)]) for _ in range(40)]
    assert sum(bool(f) for f in fired) == 0  # 1,160 comparisons


def test_bursty_but_unchanged_traffic_does_not_fire():
    rng = np.random.default_rng(2)
    fired = [run(DriftDetector(), [block(rng, gap_shape=0.3) for _ in range(30)]) for _ in range(20)]
    assert sum(bool(f) for f in fired) == 0


def test_the_test_alone_keeps_its_family_wise_error():
    rng = np.random.default_rng(3)
    rule = DriftRule(alpha=0.05, min_statistic=0.0, min_change=0.0)
    fired = sum(bool(compare(features(block(rng)), features(block(rng)), rule)) for _ in range(400))
    assert fired <= 0.05 * 400 + 3 * (0.05 * 0.95 * 400) ** 0.5


def test_each_feature_is_found_and_named_with_its_means():
    for change, feature, factor in (
        ({"rate": 25.0}, "arrival_rate", 2.5),
        ({"prompt": 1500}, "prompt_tokens", 3.0),
        ({"output": 600}, "output_tokens", 3.0),
    ):
        rng = np.random.default_rng(4)
        detector = DriftDetector()
        assert run(detector, [block(rng) for _ in range(5)]) == []
        assert detector.offer(block(rng, **change)) == []  # suspected
        (shift,) = detector.offer(block(rng, **change))  # confirmed
        assert shift.feature == feature
        assert shift.p_value <= 0.01
        assert 0.7 * factor < shift.after / shift.before < 1.4 * factor


def test_one_odd_block_is_not_a_shift_and_a_shift_is_told_once():
    rng = np.random.default_rng(5)
    detector = DriftDetector()
    quiet = [block(rng) for _ in range(5)]
    assert run(detector, [*quiet, block(rng, rate=40.0), *[block(rng) for _ in range(5)]]) == []
    assert run(detector, [block(rng, prompt=2000) for _ in range(6)]) == ["prompt_tokens"]
    assert run(detector, [block(rng) for _ in range(6)]) == ["prompt_tokens"]  # and back


def test_significant_but_small_changes_are_ignored():
    rng = np.random.default_rng(6)
    detector = DriftDetector(DriftRule(max_sample=100_000))
    blocks = [block(rng, size=20_000) for _ in range(3)] + [
        block(rng, size=20_000, prompt=540) for _ in range(4)
    ]
    assert run(detector, blocks) == []


def test_sparse_and_empty_blocks_are_survived():
    rng = np.random.default_rng(7)
    assert run(DriftDetector(), [np.zeros(0, ROW), block(rng, size=5), block(rng), block(rng)]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_monotone_bounded_and_never_below_the_raw_value(p_values):
    adjusted = holm(p_values)
    assert all(p <= a <= 1 for p, a in zip(p_values, adjusted, strict=True))
    ordered = [a for _, a in sorted(zip(p_values, adjusted, strict=True))]
    assert ordered == sorted(ordered)
    assert min(adjusted) == min(1.0, len(p_values) * min(p_values))
