import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from dispatch_fakes import STEP, FakePolicy, activation, arrival, beat, dispatcher, least_inflight

from autopoiesis.contracts.messages.fleet import StepModel
from autopoiesis.contracts.messages.policy import Activation
from autopoiesis.dispatch import events as ev
from autopoiesis.dispatch.core import Dispatcher
from autopoiesis.policy.api import HOLD, REJECT, Assign, DispatchContext, Replica, Request, RouteDecision


def one_at_a_time(request: Request, replicas: Sequence[Replica], ctx: DispatchContext) -> RouteDecision:
    free = [replica.index for replica in replicas if replica.inflight == 0]
    return Assign(free[0]) if free else HOLD


def always(decision: RouteDecision) -> FakePolicy:
    return FakePolicy(lambda request, replicas, ctx: decision)


def faulty(request: Request, replicas: Sequence[Replica], ctx: DispatchContext) -> RouteDecision:
    raise ZeroDivisionError("division by zero")


def sends(actions: list[ev.Action]) -> list[tuple[str, str]]:
    return [(action.request_id, action.replica) for action in actions if isinstance(action, ev.Send)]


def fed(core: Dispatcher, now: float, *events: ev.Event) -> list[ev.Action]:
    return [action for event in events for action in core.handle(now, event)]


def kept_alive(core: Dispatcher, until: float, replica: str = "a") -> list[tuple[float, ev.Action]]:
    """Heartbeats twice a second and every wake, until `until`."""
    seen, now, number = [], 0.0, 1000
    while now < until:
        now = min(core.next_wake, math.floor(2 * now + 1) / 2)
        number += 1
        event = ev.Wake() if now == core.next_wake else beat(replica, number)
        seen += [(now, action) for action in core.handle(now, event)]
    return seen


def test_a_request_is_sent_where_the_policy_says() -> None:
    core = dispatcher(FakePolicy(lambda request, replicas, ctx: Assign(1, priority=3), name="p", fuel=12))
    fed(core, 0.0, beat("a"), beat("b"))
    assert core.handle(1 / 8, arrival("q", prompt_bytes=400)) == [
        ev.Send(request_id="q", replica="b", nth=1, prompt_tokens=100, priority=3, policy="p", fuel=12)
    ]


@pytest.mark.parametrize(("given", "sent"), [(None, 2), (0, 0), (-1, -1)])
def test_a_priority_that_the_policy_leaves_out_is_the_class(given: int | None, sent: int) -> None:
    core = dispatcher(always(Assign(0, priority=given)))
    fed(core, 0.0, beat("a"))
    (send,) = core.handle(0.0, arrival(priority=2))
    assert isinstance(send, ev.Send)
    assert send.priority == sent


def test_the_decode_replica_travels_along() -> None:
    core = dispatcher(always(Assign(0, decode=1)))
    fed(core, 0.0, beat("a"), beat("b", role="decode"))
    (send,) = core.handle(0.0, arrival())
    assert isinstance(send, ev.Send)
    assert (send.replica, send.decode) == ("a", "b")


def test_a_held_request_goes_when_another_ends() -> None:
    core = dispatcher(FakePolicy(one_at_a_time))
    fed(core, 0.0, beat())
    assert sends(fed(core, 0.0, arrival("first"), arrival("second"))) == [("first", "a")]
    assert core.queue_length("m") == 1
    assert core.handle(0.5, ev.Ended(request_id="first")) == []
    assert core.next_wake == 0.5
    (send,) = core.handle(0.5, ev.Wake())
    assert isinstance(send, ev.Send)
    assert (send.request_id, send.holds) == ("second", 1)
    assert core.next_wake == math.inf


def test_held_requests_go_in_the_order_of_their_priority() -> None:
    core = dispatcher(FakePolicy(one_at_a_time, lambda request, ctx: request.priority))
    fed(core, 0.0, beat())
    fed(core, 0.0, arrival("now"), *(arrival(f"p{level}", priority=level) for level in (2, 0, 1)))
    order = []
    running = "now"
    for second in (1, 2, 3):
        actions = fed(
            core,
            second / 2,
            beat(number=1 + second, received={"r1": second}),
            ev.Ended(request_id=running),
            ev.Wake(),
        )
        ((running, _),) = sends(actions)
        order.append(running)
    assert order == ["p0", "p1", "p2"]


def test_a_held_request_does_not_block_those_behind_it() -> None:
    def short_only(request: Request, replicas: Sequence[Replica], ctx: DispatchContext) -> RouteDecision:
        return Assign(0) if ctx.now > 0 and request.max_tokens < 100 else HOLD

    core = dispatcher(FakePolicy(short_only))
    fed(core, 0.0, beat(), arrival("long", max_tokens=1000), arrival("short", max_tokens=10))
    assert sends(fed(core, 0.3, beat(number=2), ev.Wake())) == [("short", "a")]


def test_priorities_age_while_requests_are_held() -> None:
    def key(request: Request, ctx: DispatchContext) -> float:
        return request.priority - (10 if request.max_tokens == 1 and request.waited > 0.5 else 0)

    core = dispatcher(FakePolicy(one_at_a_time, key))
    fed(
        core,
        0.0,
        beat(),
        arrival("running"),
        arrival("first", priority=0),
        arrival("ages", priority=5, max_tokens=1),
    )
    actions = fed(core, 0.8, beat(number=2), ev.Ended(request_id="running"), ev.Wake())
    assert sends(actions) == [("ages", "a")]


def test_hold_expires_into_the_fallback() -> None:
    core = dispatcher(always(HOLD), hold_max_s=3.0)
    fed(core, 0.0, beat(), arrival())
    ((at, send),) = kept_alive(core, 6.0)
    assert isinstance(send, ev.Send)
    assert (at, send.fallback) == (3.0, True)


def test_the_deadline_of_a_held_request_is_kept() -> None:
    core = dispatcher(always(HOLD))
    fed(core, 0.0, beat(), arrival(deadline=2.25))
    ((at, refuse),) = kept_alive(core, 6.0)
    assert isinstance(refuse, ev.Refuse)
    assert (at, refuse.reason) == (2.25, "deadline")


def test_without_a_replica_requests_wait_and_are_then_refused() -> None:
    core = dispatcher(no_replica_wait_s=5.0)
    assert core.handle(1.0, arrival()) == []
    assert core.next_wake == 6.0
    (refuse,) = core.handle(6.0, ev.Wake())
    assert isinstance(refuse, ev.Refuse)
    assert refuse.reason == "no_replica"
    assert "model m" in refuse.message


def test_waiting_requests_go_to_the_first_replica_that_appears() -> None:
    core = dispatcher()
    core.handle(1.0, arrival())
    core.handle(2.0, beat(state="loading", progress=0.5))
    assert core.handle(2.5, ev.Wake()) == []
    core.handle(3.0, beat(number=2))
    assert sends(core.handle(core.next_wake, ev.Wake())) == [("q", "a")]


def test_a_silent_replica_is_not_offered() -> None:
    core = dispatcher(suspect_after_s=1.0)
    fed(core, 0.0, beat("a"), beat("b"))
    core.handle(0.9, beat("b", 2))
    assert sends(core.handle(1.0, arrival())) == [("q", "b")]
    assert {info.name: info.state for info in core.fleet()} == {"a": "suspect", "b": "ready"}


def test_a_full_queue_refuses() -> None:
    core = dispatcher(always(HOLD), max_queue=2)
    fed(core, 0.0, beat(), arrival("1"), arrival("2"))
    (refuse,) = core.handle(0.0, arrival("3"))
    assert isinstance(refuse, ev.Refuse)
    assert (refuse.request_id, refuse.reason) == ("3", "queue_full")
    assert core.stats().counters.refused == {"queue_full": 1}


def test_what_can_start_in_time_nowhere_is_refused_where_the_operator_wants_it() -> None:
    pace = StepModel(base_s=0.01, prefill_token_s=1e-4, kv_token_s=0.0, sequence_s=0.0, chunk_tokens=2048)
    busy: dict[str, Any] = {"step_model": pace, "queued_prefill_tokens": 100_000}  # ten seconds
    core = dispatcher(always(Assign(0)), admit_ttft_factor=2.0)
    fed(core, 0.0, beat("a", **busy), beat("b", **busy))
    (refuse,) = core.handle(0.0, arrival("1", ttft_slo=1.0))
    assert isinstance(refuse, ev.Refuse)
    assert (refuse.reason, refuse.retry_after >= 1.0) == ("overloaded", True)
    assert sends(core.handle(0.0, arrival("2", ttft_slo=60.0))) == [("2", "a")]
    fed(core, 0.1, beat("b", 2, step_model=pace))
    assert sends(core.handle(0.1, arrival("3", ttft_slo=1.0))), "one replica could"
    without = dispatcher(always(Assign(0)))
    fed(without, 0.0, beat("a", **busy))
    assert sends(without.handle(0.0, arrival("4", ttft_slo=1.0))), "nobody asked for it"


def test_a_full_replica_has_room_as_soon_as_answers_end_that_are_cut_short() -> None:
    predicted: list[float] = []

    def look(request: Request, replicas: Sequence[Replica], ctx: DispatchContext) -> RouteDecision:
        predicted.append(replicas[0].predicted_ttft)
        return Assign(0)

    core = dispatcher(FakePolicy(look))
    core.handle(0.0, beat(max_running=8))
    for number in range(500):
        fed(
            core, 0.0, arrival(f"{number}"), ev.Ended(request_id=f"{number}", output_tokens=20, natural=False)
        )
    fed(core, 0.5, beat(number=2, max_running=8, running=8, received={"r1": 500}), arrival())
    step = STEP.base_s + 8 * STEP.sequence_s
    assert predicted[-1] == pytest.approx(1.5 * step + 100 * STEP.prefill_token_s + 20 / 8 * step, rel=0.3)


def test_tokens_of_a_cached_block_are_learned_where_prompts_are_cut_by_bytes() -> None:
    seen: list[int] = []

    def look(request: Request, replicas: Sequence[Replica], ctx: DispatchContext) -> RouteDecision:
        seen.append(replicas[0].prefix_hit_tokens)
        return Assign(0)

    core = dispatcher(FakePolicy(look), block_bytes=1024)
    core.handle(0.0, beat())
    for number in range(200):  # half a token per byte, twice what is assumed at first
        blocks = {"prompt_bytes": 4096, "block_hashes": (1, 2)}
        fed(core, 0.0, arrival(f"{number}", **blocks), ev.Ended(request_id=f"{number}", prompt_tokens=2048))
    assert seen[:2] == [0, 2 * round(1024 * (2048 + 1024) / (4096 + 4096))]
    assert seen[-1] == pytest.approx(2 * 512, rel=0.02)


def test_predictions_of_every_replica_are_compared_with_what_happens() -> None:
    """Also where requests go round in a circle, of whatever length."""

    def in_turn(request: Request, replicas: Sequence[Replica], ctx: DispatchContext) -> RouteDecision:
        return Assign(request.seq % len(replicas))

    names = ("a", "b", "c", "d")
    core = dispatcher(FakePolicy(in_turn, reads={"Request": frozenset({"seq"})}))
    fed(core, 0.0, *(beat(name) for name in names))
    for number in range(32):
        fed(core, 0.0, arrival(f"{number}"))
    fed(core, 0.5, *(ev.Tokens(f"{number}", 1) for number in range(32)))
    factors = [core._fleet.replicas[name].latency.ttft_correction.factor for name in names]
    assert min(factors) > 1


def test_rejects_stay_within_the_operators_share() -> None:
    core = dispatcher(always(REJECT), max_reject_share=0.25)
    core.handle(0.0, beat())
    actions = fed(core, 0.0, *(arrival(str(number)) for number in range(100)))
    rejected = [action for action in actions if isinstance(action, ev.Refuse)]
    assert len(rejected) == 25
    assert all(action.fallback for action in actions if isinstance(action, ev.Send))


def test_rejects_of_more_than_a_minute_ago_are_forgotten() -> None:
    core = dispatcher(always(REJECT), max_reject_share=1.0, suspect_after_s=1000.0)
    core.handle(0.0, beat())
    fed(core, 0.0, *(arrival(str(number)) for number in range(10)))
    (refuse,) = core.handle(100.0, arrival("late"))
    assert isinstance(refuse, ev.Refuse)


def test_a_fault_is_reported_and_the_fallback_decides() -> None:
    core = dispatcher(FakePolicy(faulty, name="bad"))
    fed(core, 0.0, beat("a"), beat("b", queued_prefill_tokens=50_000))
    fault, send = core.handle(0.1, arrival())
    assert fault == ev.Fault(hash="bad", epoch=0, fault="ZeroDivisionError: division by zero")
    assert isinstance(send, ev.Send)
    assert (send.replica, send.fallback, send.policy) == ("a", True, "bad")


def test_the_line_of_a_fault_is_told_where_it_is_known() -> None:
    class Located(Exception):  # noqa: N818
        line = 7

    def route(request: Request, replicas: Sequence[Replica], ctx: DispatchContext) -> RouteDecision:
        raise Located("here")

    core = dispatcher(FakePolicy(route))
    core.handle(0.0, beat())
    fault, _ = core.handle(0.0, arrival())
    assert isinstance(fault, ev.Fault)
    assert fault.line == 7


@pytest.mark.parametrize("key", [math.nan, "first", None])
def test_a_priority_that_orders_nothing_is_a_fault(key: object) -> None:
    core = dispatcher(FakePolicy(lambda request, replicas, ctx: HOLD, lambda request, ctx: key))  # type: ignore[arg-type, return-value]
    core.handle(0.0, beat())
    (fault,) = core.handle(0.0, arrival())
    assert isinstance(fault, ev.Fault)
    assert core.queue_length("m") == 1


def test_strikes_quarantine_a_policy_until_the_epoch_moves() -> None:
    core = dispatcher(
        FakePolicy(faulty, name="bad"),
        compile_=lambda source: FakePolicy(faulty, name=source.hash),
        strikes=3,
    )
    core.handle(0.0, beat())
    actions = fed(core, 0.5, *(arrival(str(number)) for number in range(5)))
    faults = [action for action in actions if isinstance(action, ev.Fault)]
    assert [(fault.strikes, fault.quarantined) for fault in faults] == [(1, False), (2, False), (3, True)]
    assert len(sends(actions)) == 5
    assert core.active.hash == "fallback"
    fed(core, 0.6, ev.Activated(activation(1, name="bad")))
    assert core.active.hash == "bad"
    assert isinstance(core.handle(0.6, arrival("again"))[0], ev.Fault)


def test_strikes_outside_the_window_do_not_add_up() -> None:
    core = dispatcher(FakePolicy(faulty, name="bad"), strikes=2, strike_window_s=10.0, suspect_after_s=1000.0)
    core.handle(0.0, beat())
    for number in range(5):
        core.handle(number * 10.0, arrival(str(number)))
    assert core.active.hash == "bad"


def test_quarantine_frees_what_is_held() -> None:
    def holds_then_fails(
        request: Request, replicas: Sequence[Replica], ctx: DispatchContext
    ) -> RouteDecision:
        return HOLD if request.max_tokens == 100 else faulty(request, replicas, ctx)

    core = dispatcher(FakePolicy(holds_then_fails), strikes=1)
    fed(core, 0.0, beat(), arrival("held"), arrival("fatal", max_tokens=5))
    assert sends(core.handle(core.next_wake, ev.Wake())) == [("held", "a")]


def compiled(source: Activation) -> FakePolicy:
    if source.source == "bad":
        raise SyntaxError("line 3: no")
    return FakePolicy(least_inflight, name=source.hash)


def test_only_newer_epochs_are_applied() -> None:
    core = dispatcher(compile_=compiled)
    assert core.handle(0.0, ev.Activated(activation(5, name="five"))) == [ev.Swapped("five", 5)]
    assert (
        fed(core, 0.0, ev.Activated(activation(5, name="again")), ev.Activated(activation(4, name="four")))
        == []
    )
    assert (core.epoch, core.active.hash) == (5, "five")


def test_a_source_that_does_not_compile_leaves_the_former_policy() -> None:
    core = dispatcher(compile_=compiled)
    core.handle(0.0, ev.Activated(activation(1, name="one")))
    (swapped,) = core.handle(0.0, ev.Activated(activation(3, "bad", "three")))
    assert swapped == ev.Swapped("three", 3, "SyntaxError: line 3: no")
    assert (core.epoch, core.active.hash) == (1, "one")
    assert core.handle(0.0, ev.Activated(activation(2, name="two"))) == []


def test_a_forced_activation_is_applied_whatever_its_epoch() -> None:
    core = dispatcher(compile_=compiled)
    core.handle(0.0, ev.Activated(activation(5, name="five")))
    core.handle(0.0, ev.Activated(activation(0, name="pinned"), force=True))
    assert (core.epoch, core.active.hash) == (0, "pinned")
    core.handle(0.0, ev.Activated(activation(5, name="five"), force=True))
    assert (core.epoch, core.active.hash) == (5, "five")


def test_a_new_policy_decides_what_the_old_one_held() -> None:
    core = dispatcher(always(HOLD), compile_=compiled)
    fed(core, 0.0, beat(), arrival())
    core.handle(0.5, ev.Activated(activation(1, name="new")))
    (send,) = core.handle(core.next_wake, ev.Wake())
    assert isinstance(send, ev.Send)
    assert (send.epoch, send.policy) == (1, "new")


@pytest.mark.parametrize(
    "failure",
    [
        ev.ReplicaGone("a", "no responder"),
        ev.Bounced("q", "draining"),
        beat("a", 1, incarnation="i2"),
        beat("a", 2, state="failed"),
    ],
    ids=["gone", "bounced", "restarted", "failed"],
)
def test_a_request_without_tokens_goes_elsewhere(failure: ev.Event) -> None:
    core = dispatcher()
    fed(core, 0.0, beat("a"), beat("b", running=5), arrival())
    (send,) = core.handle(0.1, failure)
    assert isinstance(send, ev.Send)
    assert send.attempt == 2
    assert send.replica in (
        "b",
        "a" if isinstance(failure, ev.Beat) and failure.heartbeat.state == "ready" else "b",
    )


def test_a_request_that_streamed_is_lost_with_its_replica() -> None:
    core = dispatcher()
    fed(core, 0.0, beat("a"), beat("b"), arrival(), ev.Tokens("q", 1))
    assert core.handle(0.1, ev.ReplicaGone("a", "no responder")) == [ev.Lost("q", "a", "no responder")]
    assert core.handle(0.2, ev.Ended(request_id="q")) == []


def test_attempts_are_bounded() -> None:
    core = dispatcher(max_attempts=2)
    fed(core, 0.0, beat("a"), beat("b"), arrival())
    core.handle(0.1, ev.ReplicaGone("a", "gone"))
    assert core.handle(0.2, ev.ReplicaGone("b", "gone too")) == [ev.Lost("q", "b", "gone too")]


@pytest.mark.parametrize(
    "refusal", [ev.Bounced("q", "draining"), ev.ReplicaGone("b", "no responder"), None], ids=["bounced", "gone", "stopped"]
)  # fmt: skip
def test_replicas_that_leave_cost_a_request_no_attempt(refusal: ev.Event | None) -> None:
    core = dispatcher(max_attempts=2)
    fed(core, 0.0, beat("a"), beat("b", running=1), beat("c", running=9), arrival())
    core.handle(0.1, ev.ReplicaGone("a", "crashed"))
    state = "draining" if refusal else "stopped"
    actions = fed(core, 0.2, beat("b", 2, state=state), *([refusal] if refusal else ()))
    (send,) = (action for action in actions if isinstance(action, ev.Send))
    assert (send.replica, send.attempt) == ("c", 3)
    assert core.handle(0.3, ev.ReplicaGone("c", "crashed")) == [ev.Lost("q", "c", "crashed")]


def test_what_runs_beside_a_replica_that_left_serves_on() -> None:
    core = dispatcher()
    fed(core, 0.0, beat("a", node="n"), beat("b", running=1, node="n"), arrival())
    actions = fed(core, 0.1, beat("a", 2, node="n", state="draining"), ev.ReplicaGone("a", "no responder"))
    assert sends(actions) == [("q", "b")]


def test_a_replica_that_is_gone_comes_back_with_its_next_heartbeat() -> None:
    core = dispatcher()
    fed(core, 0.0, beat("a"), ev.ReplicaGone("a", "no responder"))
    assert [info.state for info in core.fleet()] == ["gone"]
    assert core.handle(0.1, arrival("waits")) == []
    core.handle(0.2, beat("a", 2))
    assert sends(core.handle(core.next_wake, ev.Wake())) == [("waits", "a")]


def test_what_runs_beside_a_replica_that_is_gone_waits_for_its_own_heartbeat() -> None:
    core = dispatcher()
    fed(core, 0.0, beat("a", node="n"), beat("b", node="n"), beat("c", running=9), arrival())
    (send,) = core.handle(0.1, ev.ReplicaGone("a", "no responder"))
    assert isinstance(send, ev.Send)
    assert send.replica == "c"
    assert sends(fed(core, 0.2, beat("b", 2, node="n"), arrival("next"))) == [("next", "b")]


def test_a_client_that_leaves_frees_its_replica() -> None:
    core = dispatcher(FakePolicy(one_at_a_time))
    fed(core, 0.0, beat(), arrival("sent"), arrival("held"), arrival("held too"))
    assert core.handle(0.1, ev.Left("held")) == []
    assert core.handle(0.2, ev.Left("sent")) == [ev.Abort("sent", "a", "cancelled")]
    assert sends(core.handle(core.next_wake, ev.Wake())) == [("held too", "a")]
    assert core.handle(0.3, ev.Left("unknown")) == []


def test_passes_keep_their_distance_and_their_fuel() -> None:
    core = dispatcher(always(HOLD), fuel_per_wake=100, wake_interval_s=0.005)
    fed(core, 0.0, beat(), *(arrival(str(number)) for number in range(40)))
    before = core.stats()
    core.handle(0.3, beat(number=2))
    passes = []
    while core.next_wake < 1.0:
        passes.append(core.next_wake)
        core.handle(core.next_wake, ev.Wake())
    after = core.stats()
    assert after.counters.holds - before.counters.holds == 40
    assert len(passes) > 5
    assert all(later - earlier >= 0.005 - 1e-12 for earlier, later in pairwise(passes))


def test_a_busy_second_pauses_passes_but_not_arrivals() -> None:
    core = dispatcher(
        always(HOLD), fuel_per_second=200, fuel_per_wake=50, hold_max_s=100.0, suspect_after_s=100.0
    )
    fed(core, 0.0, beat(), *(arrival(str(number)) for number in range(40)))
    core.handle(0.0, beat(number=2))
    core.handle(0.0, ev.Wake())
    assert core.stats().counters.holds == 40
    assert core.next_wake > 0.1
    core.handle(0.01, arrival("late"))
    assert core.stats().counters.holds == 41


def test_chance_depends_on_the_request_alone() -> None:
    def draws(seed: int, names: list[str]) -> list[float]:
        seen: list[float] = []

        def route(request: Request, replicas: Sequence[Replica], ctx: DispatchContext) -> RouteDecision:
            seen.append(ctx.random())
            return Assign(0)

        core = Dispatcher(
            dispatcher()._settings, router="r1", policy=FakePolicy(route), seed=seed, compile=compiled
        )
        fed(core, 0.0, beat(), *(arrival(name) for name in names))
        return seen

    first = draws(1, ["a", "b", "c"])
    assert first == draws(1, ["x", "y", "z"])
    assert first != draws(2, ["a", "b", "c"])
    assert len(set(first)) == 3


def test_time_does_not_go_back() -> None:
    core = dispatcher()
    core.handle(1.0, beat())
    with pytest.raises(ValueError, match=r"time went back from 1\.0 to 0\.5"):
        core.handle(0.5, ev.Wake())


def test_a_request_id_is_used_once_at_a_time() -> None:
    core = dispatcher()
    fed(core, 0.0, beat(), arrival("q"))
    with pytest.raises(ValueError, match="request id 'q' is in use"):
        core.handle(0.0, arrival("q"))
    fed(core, 0.0, ev.Ended(request_id="q"))
    assert sends(core.handle(0.0, arrival("q"))) == [("q", "a")]


def test_silent_replicas_are_forgotten() -> None:
    core = dispatcher(forget_after_s=60.0)
    fed(core, 0.0, beat("a"), beat("b"))
    fed(core, 100.0, beat("b", 2))
    assert [info.name for info in core.fleet()] == ["b"]
    fed(core, 100.0, beat("c"))
    assert sends(fed(core, 100.1, arrival("1"), arrival("2"))) == [("1", "b"), ("2", "c")]


def test_late_heartbeats_are_ignored() -> None:
    core = dispatcher()
    fed(core, 0.0, beat("a", 5, incarnation="new"))
    fed(core, 0.1, beat("a", 4, state="draining", incarnation="new"))
    assert [info.state for info in core.fleet()] == ["ready"]
    fed(core, 0.2, beat("a", 1, incarnation="newer"), beat("a", 9, state="failed", incarnation="new"))
    assert [info.state for info in core.fleet()] == ["ready"]


def test_a_replica_may_come_back_with_another_model() -> None:
    core = dispatcher()
    fed(core, 0.0, beat("a", model="m"), beat("a", 1, incarnation="i2", model="other"))
    assert core.handle(0.1, arrival("q", model="m")) == []
    assert sends(core.handle(0.1, arrival("r", model="other"))) == [("r", "a")]


def test_the_fallback_leaves_decode_replicas_alone() -> None:
    core = dispatcher(FakePolicy(faulty))
    fed(core, 0.0, beat("a", role="decode"), beat("b", queued_prefill_tokens=5000))
    assert sends(core.handle(0.1, arrival())) == [("q", "b")]


def test_each_time_without_replicas_is_waited_out_anew() -> None:
    core = dispatcher(FakePolicy(lambda request, replicas, ctx: HOLD), no_replica_wait_s=5.0)
    assert core.handle(0.0, arrival()) == []
    fed(core, 4.0, beat(), ev.Wake(), ev.ReplicaGone("a", "gone"))
    assert core.handle(4.5, ev.Wake()) == []
    refused: list[ev.Action] = []
    while not refused:
        now = core.next_wake
        refused = core.handle(now, ev.Wake())
    assert now == 9.5
    assert isinstance(refused[0], ev.Refuse)
    assert refused[0].reason == "no_replica"


def test_a_timer_of_an_earlier_wait_is_not_in_force() -> None:
    core = dispatcher(
        FakePolicy(lambda request, replicas, ctx: HOLD if request.attempts else Assign(0)),
        no_replica_wait_s=5.0,
        hold_max_s=20.0,
        suspect_after_s=100.0,
    )
    fed(core, 0.0, arrival())
    assert sends(fed(core, 1.0, beat("a"), beat("b"), ev.Wake())) == [("q", "a")]
    fed(core, 2.0, ev.ReplicaGone("a", "gone"), ev.Wake())
    assert core.queue_length("m") == 1
    assert core.next_wake == 22.0
