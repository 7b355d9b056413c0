import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopoiesis.dispatch.traffic import Traffic

PAUSES = st.lists(
    st.sampled_from([0.0, 0.25, 0.5, 1.0, 3.0, 9.75, 59.0, 61.0, 200.0]), min_size=1, max_size=60
)


@given(PAUSES, st.floats(0, 1e6))
def test_windows_count_what_a_list_would(pauses: list[float], start: float) -> None:
    traffic = Traffic()
    now, times = start, []
    for number, pause in enumerate(pauses):
        now += pause
        times.append((now, number))
        counts = traffic.at(now)
        counts.arrivals += 1
        counts.prompt_tokens += number
    for window, rate, mean in (
        (10, traffic.arrival_rate(now), traffic.mean_prompt_tokens(now)),
        (60, traffic.arrival_rate_60(now), traffic.mean_prompt_tokens_60(now)),
    ):
        recent = [number for at, number in times if at >= math.floor(now) - window]
        full = min(window, math.floor(now) - math.floor(times[0][0]))
        assert rate == pytest.approx(len(recent) / max(1.0, full + now - math.floor(now)))
        assert mean == pytest.approx(sum(recent) / len(recent))


def test_a_steady_stream_has_its_rate() -> None:
    traffic = Traffic()
    for tick in range(1000):
        traffic.at(100 + tick / 20).arrivals += 1
    assert traffic.arrival_rate(149.95) == pytest.approx(20, rel=0.02)
    assert traffic.arrival_rate_60(149.95) == pytest.approx(20, rel=0.02)
    assert traffic.arrival_rate(250.0) == 0.0


def test_attainment_is_one_until_something_ends() -> None:
    traffic = Traffic()
    assert traffic.attainment(5.0) == 1.0
    traffic.at(5.0).judged += 4
    traffic.at(5.0).met += 3
    assert traffic.attainment(30.0) == 0.75
    assert traffic.attainment(70.0) == 1.0
