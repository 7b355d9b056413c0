import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopoiesis.dispatch.chance import Chance, mix
from autopoiesis.dispatch.estimators import Correction, Decaying, FaultRate, PromptRatio
from autopoiesis.dispatch.lengths import MAX_CLASSES, OutputLengths
from autopoiesis.dispatch.names import Numbering, Recent, replica_id


@given(st.lists(st.tuples(st.floats(0, 50), st.floats(0, 1000)), max_size=30))
def test_a_decaying_sum_halves_every_minute(steps: list[tuple[float, float]]) -> None:
    decaying, now, added = Decaying(), 0.0, []
    for pause, amount in steps:
        now += pause
        decaying.add(now, amount)
        added.append((now, amount))
    now += 60.0
    expected = sum(amount * 0.5 ** ((now - at) / 60) for at, amount in added)
    assert decaying.at(now) == pytest.approx(expected)


def test_a_fault_rate_is_a_share_that_halves_every_minute() -> None:
    rate = FaultRate()
    assert rate.at(5.0) == 0.0
    for _ in range(200):
        rate.observe(10.0, failed=True)
    assert rate.at(10.0) == pytest.approx(1.0, abs=1e-6)
    assert rate.at(70.0) == pytest.approx(0.5, abs=1e-6)
    for _ in range(50):
        rate.observe(70.0, failed=False)
    assert 0 < rate.at(70.0) < 0.01


@given(st.floats(0.2, 5.0))
def test_a_correction_learns_a_constant_factor(truth: float) -> None:
    correction = Correction()
    for _ in range(200):
        correction.observe(1.0, truth)
    assert correction.factor == pytest.approx(truth, rel=0.01)


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6))))
def test_a_correction_stays_within_its_bounds(pairs: list[tuple[float, float]]) -> None:
    correction = Correction()
    for predicted, observed in pairs:
        correction.observe(predicted, observed)
        assert correction.factor * 1.000001 >= 1 / Correction.LIMIT
        assert correction.factor <= Correction.LIMIT * 1.000001


def test_the_prompt_ratio_moves_from_its_prior_to_what_engines_count() -> None:
    ratio = PromptRatio(0.25)
    assert ratio.tokens(1000) == 250
    for _ in range(100):
        ratio.observe(3000, 1000)
    assert ratio.tokens(3000) == pytest.approx(1000, abs=10)
    assert ratio.tokens(0) == 1


def test_lengths_begin_at_the_prior_and_learn_the_mean() -> None:
    lengths, rng = OutputLengths(256.0), random.Random(3)
    assert lengths.expected("chat", 100) == 256.0
    for _ in range(2000):
        lengths.observe("chat", 100, 1 + int(rng.expovariate(1 / 80)), natural=True)
    assert lengths.expected("chat", 100) == pytest.approx(80, rel=0.1)


def test_answers_cut_short_are_lower_bounds() -> None:
    lengths, rng = OutputLengths(256.0), random.Random(4)
    for _ in range(5000):
        true = 1 + int(rng.expovariate(1 / 200))
        lengths.observe("chat", 100, min(true, 100), natural=true <= 100)
    assert lengths.expected("chat", 100) == pytest.approx(200, rel=0.15)


def test_where_limits_end_every_answer_its_place_in_a_batch_is_taken_as_long_as_it_was() -> None:
    lengths = OutputLengths(256.0)
    for _ in range(2000):
        lengths.observe("chat", 100, 25, natural=False)
    assert lengths.mean == pytest.approx(25, rel=0.2)


def test_a_level_without_ends_of_its_own_leans_on_the_coarser_one() -> None:
    lengths = OutputLengths(256.0)
    for _ in range(300):
        lengths.observe("chat", 100, 50, natural=True)
        lengths.observe("batch", 10_000, 900, natural=True)
    assert lengths.expected("chat", 100) == pytest.approx(50, rel=0.05)
    assert lengths.expected("chat", 7) == pytest.approx(lengths.expected("chat", 100_000))
    assert (
        lengths.expected("chat", 7)
        < 100
        < lengths.expected("new", 7)
        < 900
        < lengths.expected("batch", 7) + 50
    )


def test_one_huge_answer_does_not_spoil_the_mean() -> None:
    lengths = OutputLengths(256.0)
    for _ in range(200):
        lengths.observe("chat", 100, 50, natural=True)
    lengths.observe("chat", 100, 1_000_000, natural=True)
    assert lengths.expected("chat", 100) < 60


def test_classes_are_bounded() -> None:
    lengths = OutputLengths(256.0)
    for number in range(10 * MAX_CLASSES):
        lengths.observe(f"class {number}", 1, 10, natural=True)
    assert len(lengths._classes) == MAX_CLASSES


def test_names_get_numbers_in_order_of_first_sight() -> None:
    numbers = Numbering()
    assert [numbers[name] for name in "abca"] == [0, 1, 2, 0]


def test_recent_names_are_kept_and_old_ones_dropped() -> None:
    recent = Recent(2, int, first=1)
    assert [recent.get(name) for name in ("a", "b", "a", "c", "a", "b")] == [1, 2, 1, 3, 1, 4]
    assert len(recent) == 2


def test_replica_ids_are_the_same_everywhere() -> None:
    assert replica_id("n0-h100-0") == 260555598
    assert all(0 <= replica_id(f"r{number}") < 2**31 for number in range(100))
    assert len({replica_id(f"r{number}") for number in range(100)}) == 100


def test_chance_is_uniform_and_seeded() -> None:
    chance = Chance()
    chance.seed(1, 2)
    first = [chance.uniform() for _ in range(1000)]
    chance.seed(1, 2)
    assert first == [chance.uniform() for _ in range(1000)]
    assert math.fsum(first) / 1000 == pytest.approx(0.5, abs=0.05)
    assert 0 <= min(first) < 0.02
    assert 0.98 < max(first) < 1
    firsts = []
    for number in range(1000):
        chance.seed(1, number)
        firsts.append(chance.uniform())
    assert math.fsum(firsts) / 1000 == pytest.approx(0.5, abs=0.05)


def test_chance_does_not_change_between_releases() -> None:
    assert mix(0) == 0xE220_A839_7B1D_CDAF  # the first output of SplitMix64 seeded with 0
    chance = Chance()
    chance.seed(7, 42)
    assert [chance.uniform() for _ in range(3)] == [
        0.3859423157382662,
        0.5567030346525534,
        0.9129538949006275,
    ]
