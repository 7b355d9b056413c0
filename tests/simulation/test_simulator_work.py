"""How much the simulated engine does: work follows requests, not tokens. Counted, not timed."""

import math

from autopoiesis.simulator.api import Fleet
from autopoiesis.simulator.engine import Job
from autopoiesis.simulator.replica import Replica


def events(requests: int, output_tokens: int, apart_s: float) -> int:
    """Times at which the batch changes until all requests have ended."""
    spec = Fleet.parse("1xH100").replicas[0]
    replica = Replica(spec.steps, spec.config)
    count = 0
    for row in range(requests):
        now = row * apart_s
        while replica.next_event <= now:
            replica.advance(replica.next_event)
            count += 1
        replica.submit(now, Job(row, 300, output_tokens))
    while replica.next_event < math.inf:
        replica.advance(replica.next_event)
        count += 1
    return count


def test_long_answers_cost_no_more_events_than_short_ones() -> None:
    assert events(100, 2000, 0.5) <= events(100, 50, 0.5) + 100  # an arrival may cut a run of steps short
    assert events(100, 2000, 0.5) <= 4 * 100


def test_events_per_request_stay_the_same_over_the_trace() -> None:
    assert events(2000, 200, 0.1) <= 2.1 * events(1000, 200, 0.1)
