"""Agentic workflows and clients that give up: calls wait for calls, and policies see how far each workflow is."""

from pathlib import Path

import numpy as np
import pytest

from autopoiesis.dispatch.deciding import Decider
from autopoiesis.dispatch.models import Offer
from autopoiesis.dispatch.ticket import Ticket
from autopoiesis.policy.api import RouteDecision
from autopoiesis.simulator.api import SLO, Change, Clients, WorldSettings, evaluate, load_trace
from autopoiesis.simulator.requests.outcome import ABANDONED, FAILED, FINISHED
from autopoiesis.simulator.workload import Trace, scale_load
from autopoiesis.simulator.workload.scaling import succession

GOAL = SLO(ttft_s=1.0, tpot_s=0.05)
SESSIONS = Path(__file__).parents[3] / "shared/traces/agentic_coding_sessions.jsonl.gz"
MOST_URGENT = """API = 1
def prioritize(request, ctx):
    work = request.workflow
    if work is None:
        return 0.0
    return 0.0 - work.projected_ratio
def route(request, replicas, ctx):
    work = request.workflow
    if work is None:
        return Assign(0)
    if work.calls_open + work.calls_done < 1 or work.age < 0.0 or work.attained > work.age:
        return REJECT
    best = 0
    for replica in replicas:
        if replica.running + replica.waiting < replicas[best].running + replicas[best].waiting:
            best = replica.index
    return Assign(best)
"""


def diamond(count: int) -> Trace:
    """`count` workflows of four calls: one, then two side by side, then one that waits for the later-listed of these."""
    arrival, parent, workflow = [], [], []
    for number in range(count):
        first = 4 * number
        arrival += [2.0 * number + 0.01 * step for step in range(4)]
        parent += [-1, first, first, first + 2]
        workflow += [number + 1] * 4
    rows = len(arrival)
    return Trace.of(
        "diamonds",
        arrival,
        [500] * rows,
        [40] * rows,
        parent=parent,
        think_s=np.where(np.array(parent) < 0, 0.0, 0.5),
        session=workflow,
        workflow=workflow,
    )


def test_calls_wait_and_the_view_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[int, list[tuple[int, int, float, float, float]]] = {}
    route = Decider.route

    def spy(self: Decider, now: float, ticket: Ticket, offer: Offer) -> RouteDecision:
        decision = route(self, now, ticket, offer)
        work = self._request.workflow
        assert work is not None
        seen.setdefault(int(ticket.event.workflow), []).append(
            (work.calls_done, work.calls_open, work.age, work.attained, work.remaining_path)
        )
        return decision

    monkeypatch.setattr(Decider, "route", spy)
    trace = diamond(5)
    run = evaluate(MOST_URGENT, trace, "2xL40S", GOAL).runs[0]
    assert (run.outcome == FINISHED).all()
    ended = run.arrival_s + run.e2e_s
    child = trace.parent >= 0
    assert run.arrival_s[child] == pytest.approx(ended[trace.parent[child]] + 0.5)
    for calls in seen.values():
        assert [call[:2] for call in calls] == [(0, 1), (1, 1), (1, 2), (3, 1)]
        ages = [call[2] for call in calls]
        assert ages[0] == 0
        assert ages == sorted(ages)
        attained = [call[3] for call in calls]
        assert attained[0] == 0 < attained[1] == attained[2] < attained[3] < ages[3]
        assert all(call[4] > 0 for call in calls)


def test_copies_and_successions_keep_workflows_apart() -> None:
    trace = diamond(3)
    more = scale_load(trace, 2.0)
    assert more.workflow is not None
    assert len(np.unique(more.workflow)) == 6
    assert (np.bincount(more.workflow)[1:] % 4 == 0).all()
    both = succession(trace.shifted(-60.0), trace)
    assert both.workflow is not None
    assert len(np.unique(both.workflow)) == 6


def test_clients_that_give_up_send_nothing_after_a_failure() -> None:
    trace = diamond(10)
    lost = [Change(at=4.3, kind="fail", replica="l40s-0"), Change(at=4.3, kind="fail", replica="l40s-1")]
    going_on, giving_up = (
        evaluate(
            "round_robin",
            trace,
            "3xL40S",
            GOAL,
            changes=lost,
            settings=WorldSettings(clients=Clients(give_up=stop)),
        ).runs[0]
        for stop in (False, True)
    )
    assert (going_on.outcome == FAILED).any()
    assert not (going_on.outcome == ABANDONED).any()
    left = giving_up.outcome == ABANDONED
    assert left.any()
    parents = trace.parent[left]
    assert np.isin(giving_up.outcome[parents], [FAILED, ABANDONED]).all()
    assert not giving_up.met[left].any()
    assert (giving_up.tokens[left] == 0).all()


@pytest.mark.skipif(not SESSIONS.exists(), reason=f"needs {SESSIONS.name} (callanjfox/kv-cache-tester)")
def test_recorded_agentic_sessions_run_to_their_ends() -> None:
    trace = load_trace(SESSIONS, sessions=6, sessions_per_s=0.5, scale=0.05, longest_gap_s=20.0)
    run = evaluate(MOST_URGENT, trace, "2xH100", GOAL).runs[0]
    assert (run.outcome == FINISHED).all()
    assert run.summary()["prefix_hit_share"] > 0.5
    assert trace.workflow is not None
    assert len(np.unique(trace.workflow)) == 6
