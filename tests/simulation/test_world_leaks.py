"""No decision depends on a length that has not come out yet, whatever the policy and whatever happens to the fleet."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_world_oracle import Small, worlds

from autopoiesis.dispatch import Dispatcher
from autopoiesis.dispatch import events as ev
from autopoiesis.policy import library
from autopoiesis.simulator.api import SLO, Change, Run, evaluate
from autopoiesis.simulator.replica import Replica
from autopoiesis.simulator.workload import Trace
from autopoiesis.simulator.workload import generate as gen

Order = tuple[float, ev.Action]


@contextmanager
def orders() -> Iterator[list[Order]]:
    """All that dispatchers order meanwhile, and when."""
    given_: list[Order] = []
    handle = Dispatcher.handle

    def spy(self: Dispatcher, now: float, event: ev.Event) -> list[ev.Action]:
        actions = handle(self, now, event)
        given_.extend((now, action) for action in actions)
        return actions

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Dispatcher, "handle", spy)
        yield given_


def same_until(at: float, run: Callable[[Trace], np.ndarray], trace: Trace, seed: int, most: int) -> int:
    """Check that orders up to `at` do not change where what ends later is longer by less than `most` tokens; their number.

    `run` returns when each arrival ended. Longer ones must still fit in every KV cache: what cannot is refused at once.
    """
    with orders() as first:
        ended = run(trace)
    extra = np.random.default_rng(seed).integers(0, most, len(trace))
    late = np.where(ended <= at, 0, extra)
    with orders() as second:
        run(replace(trace, output_tokens=trace.output_tokens + late))
    ours, theirs = ([order for order in told if order[0] <= at] for told in (first, second))
    assert [action for _, action in ours] == [action for _, action in theirs]
    assert [now for now, _ in ours] == pytest.approx([now for now, _ in theirs], rel=1e-9)
    return len(ours)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(worlds(), st.integers(0, 100), st.floats(0.1, 0.9))
def test_decisions_up_to_a_moment_do_not_depend_on_what_comes_out_later(
    small: Small, seed: int, share: float
) -> None:
    def run(trace: Trace) -> np.ndarray:
        return np.array(replace(small, trace=trace).run(Replica).rows.ended)

    same_until(share * float(small.trace.arrival[-1]) + 0.05, run, small.trace, seed, 10)


@pytest.mark.parametrize("policy", library.names("dispatch"))
def test_no_shipped_policy_knows_the_future(policy: str) -> None:
    goals = {"interactive": SLO(ttft_s=1, tpot_s=0.05), "batch": SLO(ttft_s=8, tpot_s=0.2, priority=1)}
    changes = [Change(at=4.0, kind="notice", replica="l40s-1", takes_s=3.0)]

    def run(trace: Trace) -> np.ndarray:
        found: Run = evaluate(policy, trace, "1xH100 + 2xL40S", goals, changes=changes, routers=2).runs[0]
        return found.arrival_s + found.e2e_s

    trace: Any = gen.poisson(12, 20, mix=[gen.INTERACTIVE, gen.BATCH], seed=1)
    assert same_until(10.0, run, trace, 7, 500) > 80
