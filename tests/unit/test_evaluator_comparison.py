"""The guard's test for a loss of attainment."""

import random

from hypothesis import given
from hypothesis import strategies as st

from autopoiesis.evaluator.comparison import Bin, change


def bins(
    share: float, *, count: int = 20, requests: int = 50, tokens: int = 10_000, seed: int = 1
) -> list[Bin]:
    generator = random.Random(seed)
    return [
        Bin(requests, sum(generator.random() < share for _ in range(requests)), tokens) for _ in range(count)
    ]


def test_a_clear_loss_is_seen_and_a_gain_is_none() -> None:
    loss = change(bins(0.95), bins(0.80, seed=2))
    assert loss.difference < -0.1
    assert loss.p_value < 1e-6
    assert (loss.before, loss.after) == (1000, 1000)
    assert change(bins(0.80), bins(0.95, seed=2)).p_value > 0.999


def test_a_loss_that_load_explains_is_none() -> None:
    """More was asked after: only the bins at the old load are compared, and there nothing changed."""
    before = bins(0.95) + bins(0.5, count=3, tokens=30_000)
    after = bins(0.95, count=3, seed=2) + bins(0.5, tokens=30_000, seed=3)
    assert change(before, after).p_value > 0.01
    apart = change(bins(0.95), bins(0.5, tokens=30_000))
    assert (apart.p_value, apart.before, apart.after) == (1.0, 0, 0)


def test_bins_that_swing_by_themselves_make_the_test_careful() -> None:
    steady = change([Bin(50, 45, 1000)] * 10, [Bin(50, 41, 1000)] * 10)
    swinging = change(
        [Bin(50, met, 1000) for met in (50, 40) * 5], [Bin(50, met, 1000) for met in (50, 32) * 5]
    )
    assert steady.difference == swinging.difference
    assert steady.p_value < 1e-3
    assert swinging.p_value > 10 * steady.p_value


def test_false_alarms_stay_rare() -> None:
    alarms = sum(
        change(bins(0.9, seed=2 * trial), bins(0.9, seed=2 * trial + 1)).p_value < 0.001
        for trial in range(400)
    )
    assert alarms <= 3


some_bins = st.lists(
    st.builds(
        lambda n, share, tokens: Bin(n, round(n * share), tokens),
        st.integers(0, 100),
        st.floats(0, 1),
        st.integers(0, 10**6),
    ),
    max_size=8,
)


@given(some_bins, some_bins)
def test_any_bins_give_a_probability_and_swapping_sides_flips_the_sign(
    first: list[Bin], second: list[Bin]
) -> None:
    there, back = change(first, second), change(second, first)
    assert 0.0 <= there.p_value <= 1.0
    assert -1.0 <= there.difference <= 1.0
    assert abs(there.difference + back.difference) < 1e-12
