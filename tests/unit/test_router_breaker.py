"""Breakers open after failures in a row, longer each time, and close with one success."""

from autopoiesis.router.breaker import FAILURES, FIRST_S, LONGEST_S, Breakers


def fail(breakers: Breakers, now: float, times: int = FAILURES) -> None:
    for _ in range(times):
        breakers.failed("a", now)


def test_opens_after_failures_in_a_row() -> None:
    breakers = Breakers()
    fail(breakers, 0.0, FAILURES - 1)
    assert not breakers.is_open("a", 0.0)
    breakers.failed("a", 0.0)
    assert breakers.is_open("a", 0.5 * FIRST_S)
    assert not breakers.is_open("b", 0.0)
    assert not breakers.is_open("a", FIRST_S)


def test_a_success_closes_it_and_starts_the_count_anew() -> None:
    breakers = Breakers()
    fail(breakers, 0.0)
    breakers.succeeded("a")
    assert not breakers.is_open("a", 0.0)
    fail(breakers, 0.0, FAILURES - 1)
    assert not breakers.is_open("a", 0.0)


def test_each_further_failure_doubles_the_time() -> None:
    breakers, now = Breakers(), 0.0
    fail(breakers, now)
    for expected in (2 * FIRST_S, 4 * FIRST_S):
        now += expected / 2
        breakers.failed("a", now)
        assert breakers.is_open("a", now + 0.99 * expected)
        assert not breakers.is_open("a", now + expected)
    for _ in range(10):
        now += LONGEST_S
        breakers.failed("a", now)
    assert breakers.is_open("a", now + 0.99 * LONGEST_S)
    assert not breakers.is_open("a", now + LONGEST_S)
