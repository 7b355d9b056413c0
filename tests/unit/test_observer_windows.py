import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopoiesis.contracts.messages.telemetry import RequestRecord
from autopoiesis.observer.recent import RecentArrivals
from autopoiesis.observer.windows import burstiness, window, windows


def arrival(at, **fields):
    defaults = {
        "request_id": f"r{at}",
        "scope": "local/m",
        "model": "m",
        "arrival_unix_s": at,
        "stream": True,
        "prompt_bytes": 400,
        "prompt_tokens": 100,
        "prompt_tokens_estimated": 100,
        "max_tokens": 300,
        "output_tokens": 50,
        "output_censored": False,
        "outcome": "finished",
        "klass": "interactive",
        "ttft_slo_s": 1.0,
        "tpot_slo_s": 0.05,
        "ttft_s": 0.5,
        "tpot_s": 0.04,
    }
    return RequestRecord(**{**defaults, **fields})


def collected(*records, capacity=1000):
    recent = RecentArrivals(capacity)
    recent.extend(records)
    return recent


def test_attainment_is_over_all_arrivals_and_per_class():
    recent = collected(
        arrival(1.0),
        arrival(2.0, ttft_s=2.0),
        arrival(3.0, outcome="rejected", ttft_s=None, tpot_s=None, output_tokens=0, output_censored=True),
        arrival(4.0, klass="batch", fallback=True, epoch=7),
    )
    seen = window("local/m", recent, 0.0, 10.0)
    assert seen.overall.arrivals == 4
    assert seen.overall.attainment == 0.5
    assert seen.overall.goodput == 0.2
    assert seen.overall.rejected == 0.25
    assert seen.classes["interactive"].attainment == pytest.approx(1 / 3)
    assert seen.classes["batch"].fallback == 1.0
    assert seen.epochs == (0, 7)


def test_censored_answers_do_not_count_as_lengths():
    recent = collected(arrival(1.0, output_tokens=10), arrival(2.0, output_tokens=3000, output_censored=True))
    assert window("s", recent, 0, 10).overall.output_tokens_mean == 10


def test_a_window_without_arrivals_has_no_invented_figures():
    seen = window("s", collected(), 0, 10).overall
    assert seen.arrivals == 0
    assert seen.attainment is None
    assert seen.ttft_p95_s is None


def test_burstiness_of_regular_and_poisson_arrivals():
    assert burstiness(np.arange(100.0)) == pytest.approx(0.0)
    poisson = np.cumsum(np.random.default_rng(0).exponential(1.0, 20_000))
    assert burstiness(poisson) == pytest.approx(1.0, abs=0.05)
    assert burstiness(np.array([1.0, 1.0, 1.0])) is None


@given(st.lists(st.floats(0, 100), max_size=60), st.integers(1, 50))
def test_windows_partition_the_arrivals_that_are_still_held(times, capacity):
    recent = collected(*[arrival(t) for t in times], capacity=capacity)
    held = times[-capacity:]
    parts = list(windows("s", recent, 0.0, 110.0, 10.0))
    assert sum(p.overall.arrivals for p in parts) == len(held)
    assert [p.start_unix_s for p in parts] == [10.0 * i for i in range(11)]
    for part in parts:
        assert part.overall.arrivals == sum(part.start_unix_s <= t < part.end_unix_s for t in held)
