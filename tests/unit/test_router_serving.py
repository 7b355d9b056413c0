"""The serving core: what becomes of requests, whatever replicas and clients do."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from serving_world import FINISHED, World

from autopoiesis.contracts.messages.infer import Chunk, Failed, FailureCode, Finished
from autopoiesis.contracts.slo import STANDARD
from autopoiesis.policy import library
from autopoiesis.router.errors import ApiError
from autopoiesis.router.flight import Flight, Item
from autopoiesis.router.records import record
from autopoiesis.router.serving import OVERFLOW, Patience


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """Where every request that ends is told of exactly once."""
    world = World()
    yield world
    assert world.serving.in_flight + len(world.ear.over) == world.submitted


async def answers(flight: Flight) -> list[Item]:
    return flight.take()


ROUTE = "def route(request, replicas, ctx):\n    return Assign(0{})\n"


async def test_a_stream(world: World) -> None:
    world.beat("a")
    flight = world.submit()
    ((replica, generate),) = world.wire.sent
    assert (replica, generate.router, generate.nth, generate.stream) == ("a", "r-1", 1, True)
    assert bytes(generate.body) == bytes(flight.body)
    world.clock.now += 0.5
    world.serving.on_reply("q1", Chunk(seq=0, text="hi", tokens=1))
    world.clock.now += 0.25
    world.serving.on_reply("q1", Chunk(seq=1, text="there", tokens=1))
    world.serving.on_reply("q1", FINISHED)
    assert [type(item) for item in await answers(flight)] == [Chunk, Chunk, Finished]
    (over,) = world.ear.over
    entry = record(over, world.clock.now, scope="local/m", gpu="H100")
    assert (entry.outcome, entry.replica, entry.output_tokens, entry.output_censored) == (
        "finished",
        "a",
        2,
        False,
    )
    assert (entry.ttft_s, entry.tpot_s, entry.e2e_s) == (0.5, 0.25, 0.75)
    assert world.serving.in_flight == 0


@pytest.mark.parametrize(("given", "passed_on"), [("", 1), (", priority=0", 0), (", priority=-7", -7)])
async def test_a_priority_that_the_policy_leaves_out_is_the_class(given: str, passed_on: int) -> None:
    world = World(library.source("round_robin").split("def route")[0] + ROUTE.format(given))
    world.beat("a")
    world.submit(klass="batch")
    assert STANDARD.of("batch").priority == 1
    assert [generate.priority for _, generate in world.wire.sent] == [passed_on]


async def test_an_answer_that_came_whole_has_the_workers_first_token(world: World) -> None:
    world.beat("a")
    world.submit(stream=False)
    world.clock.now += 1.2
    world.serving.on_reply("q1", FINISHED)
    entry = record(world.ear.over[0], world.clock.now, scope="s", gpu="")
    assert (entry.ttft_s, entry.tpot_s, entry.e2e_s) == pytest.approx((0.2, 1.0, 1.2))


async def test_keep_alives_are_not_tokens(world: World) -> None:
    world.beat("a")
    flight = world.submit()
    world.serving.on_reply("q1", Chunk(seq=0))
    assert flight.first_token is None
    world.serving.on_gone("q1", "a", "died")
    assert flight.open, "no token was out, so it waits for another replica"


async def test_a_vanished_replica_before_the_first_token_is_replaced(world: World) -> None:
    world.beat("a", "b")
    flight = world.submit()
    world.serving.on_gone("q1", world.wire.sent[0][0], "nobody listens")
    assert [generate.request_id for _, generate in world.wire.sent] == ["q1", "q1-2"]
    assert world.wire.sent[0][0] != world.wire.sent[1][0]
    world.serving.on_reply("q1", Chunk(seq=0, text="late", tokens=1))
    assert flight.first_token is None, "the first replica's words are not ours any more"
    world.serving.on_reply("q1-2", FINISHED)
    assert world.ear.over[0].attempts == 2


async def test_a_vanished_replica_after_the_first_token_is_an_error(world: World) -> None:
    world.beat("a", "b")
    flight = world.submit()
    world.serving.on_reply("q1", Chunk(seq=0, text="hi", tokens=1))
    world.serving.on_gone("q1", world.wire.sent[0][0], "died")
    *_, error = await answers(flight)
    assert isinstance(error, ApiError)
    assert (error.status, error.code) == (503, "replica_lost")
    assert world.ear.over[0].outcome == "failed"


@pytest.mark.parametrize("code", ["unavailable", "overloaded"])
async def test_a_replica_that_does_not_take_it_is_replaced(world: World, code: FailureCode) -> None:
    world.beat("a", "b")
    world.submit()
    world.serving.on_reply("q1", Failed(seq=0, code=code, message="draining"))
    assert [generate.request_id for _, generate in world.wire.sent] == ["q1", "q1-2"]
    assert not world.ear.over


async def test_a_refusal_by_the_engine_names_the_field(world: World) -> None:
    world.beat("a")
    flight = world.submit()
    world.serving.on_reply(
        "q1", Failed(seq=0, code="invalid_request", message="too hot", param="temperature")
    )
    (error,) = await answers(flight)
    assert isinstance(error, ApiError)
    assert (error.status, error.param, error.message) == (400, "temperature", "too hot")
    assert len(world.wire.sent) == 1


async def test_leaving_cancels_at_the_worker(world: World) -> None:
    world.beat("a")
    flight = world.submit()
    world.serving.leave(flight)
    world.serving.leave(flight)
    assert world.wire.cancelled == [("q1", "cancelled")]
    assert world.ear.over[0].outcome == "cancelled"
    assert record(flight, world.clock.now, scope="s", gpu="").output_censored


async def test_a_silent_replica_loses_its_requests(world: World) -> None:
    world.beat("a")
    flight = world.submit()
    world.serving.on_reply("q1", Chunk(seq=0, text="hi", tokens=1))
    world.pass_time(4.0)
    assert flight.open
    world.pass_time(2.0)
    *_, error = await answers(flight)
    assert isinstance(error, ApiError)
    assert "no sign of life" in error.message


async def test_a_router_that_stood_still_blames_nobody(world: World) -> None:
    world.beat("a")
    flight = world.submit()
    world.clock.now += 60.0
    world.serving.sweep()
    assert flight.open


async def test_pings_while_nothing_comes(world: World) -> None:
    world.beat("a")
    stream, whole = world.submit(), world.submit(stream=False)
    for _ in range(31):
        world.beat("a")
        world.pass_time(0.5)
    assert await answers(stream) == ["ping"]
    world.serving.on_reply("q2", FINISHED)
    assert [type(item) for item in await answers(whole)] == [Finished]


async def test_without_replicas_a_request_is_refused_in_time() -> None:
    world = World(no_replica_wait_s=0.0)
    flight = world.submit()
    (error,) = await answers(flight)
    assert isinstance(error, ApiError)
    assert (error.status, error.code) == (503, "no_replica")
    assert error.retry_after_s is not None
    assert world.ear.over[0].outcome == "failed"


async def test_a_held_request_goes_out_when_a_replica_comes(wait_for: Any) -> None:
    world = World()
    flight = world.submit()
    assert not world.wire.sent
    world.beat("a")
    world.clock.now += 0.01
    await wait_for(lambda: world.wire.sent)
    assert flight.replica == "a"


async def test_a_replica_that_wakes_up_again_is_not_heard(world: World) -> None:
    world.beat("a")
    flight = world.submit()
    world.pass_time(6.0)
    assert flight.open
    assert world.wire.cancelled == [("q1", "cancelled")]
    world.serving.on_reply("q1", Chunk(seq=0, text="late", tokens=1))
    assert flight.first_token is None


@pytest.mark.parametrize("again", [{"incarnation": "2"}, {"state": "failed"}])
async def test_a_restarted_engine_has_lost_its_requests(world: World, again: dict[str, Any]) -> None:
    world.beat("a", "b")
    world.submit()
    first = world.wire.sent[0][0]
    world.beat(first, **again)
    assert [generate.request_id for _, generate in world.wire.sent] == ["q1", "q1-2"]
    assert world.wire.cancelled == [("q1", "cancelled")]


async def test_a_worker_that_ignores_the_deadline_is_given_up(world: World) -> None:
    world.beat("a")
    flight = world.submit()
    for _ in range(1220):
        world.beat("a")
        world.pass_time(0.5)
    error = (await answers(flight))[-1]
    assert isinstance(error, ApiError)
    assert (error.status, world.ear.over[0].outcome) == (504, "expired")


async def test_what_is_broken_ends(world: World) -> None:
    world.beat("a")
    flight = world.submit()
    world.serving.on_reply("q1", Chunk(seq=0, text="hi", tokens=1))
    world.serving.on_broken("q1", ApiError(502, "a reply was lost", code="stream_broken"))
    *_, error = await answers(flight)
    assert isinstance(error, ApiError)
    assert error.code == "stream_broken"
    assert world.wire.cancelled == [("q1", "cancelled")]


async def test_stopping_ends_what_runs(world: World) -> None:
    world.beat("a")
    flight = world.submit()
    assert not await world.serving.idle(0.0)
    world.serving.abandon("shutting down")
    (error,) = await answers(flight)
    assert isinstance(error, ApiError)
    assert error.code == "shutting_down"
    assert world.wire.cancelled == [("q1", "cancelled")]
    assert await world.serving.idle(0.0)


def token(seq: int) -> Chunk:
    return Chunk(seq=seq, text=f"t{seq} ", tokens=1, token_ids=(seq,))


async def test_a_stream_goes_on_behind_what_the_client_has(world: World) -> None:
    world.beat("a", "b")
    flight = world.submit()
    first = world.wire.sent[0][0]
    for seq in range(3):
        world.serving.on_reply("q1", token(seq))
    world.serving.on_gone("q1", first, "it is gone")
    replica, generate = world.wire.sent[-1]
    assert replica != first
    assert (generate.request_id, generate.resume_token_ids) == ("q1-2", (0, 1, 2))
    world.serving.on_reply("q1", token(3))  # from the one that was given up
    world.serving.on_reply("q1-2", Chunk(seq=0, text="t3 ", tokens=1, token_ids=(3,)))
    world.serving.on_reply("q1-2", FINISHED)
    items = await answers(flight)
    assert [item.text for item in items if isinstance(item, Chunk)] == ["t0 ", "t1 ", "t2 ", "t3 "]
    assert isinstance(items[-1], Finished)
    assert (flight.outcome, flight.attempts, flight.resumes) == ("finished", 2, 1)


async def test_nobody_left_to_go_on_is_told_as_the_loss(wait_for: Any) -> None:
    world = World(no_replica_wait_s=0.01)
    world.beat("a")
    flight = world.submit()
    world.serving.on_reply("q1", token(0))
    world.serving.on_gone("q1", "a", "it is gone")
    world.clock.now += 1.0
    await wait_for(lambda: not flight.open)
    error = (await answers(flight))[-1]
    assert isinstance(error, ApiError)
    assert (error.code, "it is gone" in error.message) == ("replica_lost", True)


async def test_a_stream_goes_on_elsewhere_only_so_often(world: World) -> None:
    world.beat("a", "b")
    flight = world.submit()
    for attempt in range(1, 10):
        replica, generate = world.wire.sent[-1]
        if not flight.open:
            break
        world.serving.on_reply(generate.request_id, token(attempt))
        world.serving.on_gone(generate.request_id, replica, "it is gone")
        world.beat("a", "b")
    assert flight.resumes == Patience().resumes
    assert flight.outcome == "failed"


def retired(request_id: str) -> tuple[str, Failed]:
    return request_id, Failed(seq=0, code="unavailable", message="the engine was stopped", leaving=True)


async def test_retired_replicas_cost_a_stream_nothing(world: World) -> None:
    """However often the plan changes, and though no heartbeat has said so yet."""
    world.beat("a", "b")
    flight = world.submit()
    for attempt in range(3 * Patience().resumes):
        _, generate = world.wire.sent[-1]
        world.serving.on_reply(generate.request_id, token(attempt))
        world.serving.on_reply(*retired(generate.request_id))
        world.beat("a", "b")
    world.serving.on_reply(world.wire.sent[-1][1].request_id, FINISHED)
    assert (flight.outcome, flight.resumes, len(flight.token_ids)) == ("finished", 0, 9)


@pytest.mark.parametrize("stream", [True, False])
async def test_with_its_replica_retired_a_request_waits_for_another(wait_for: Any, stream: bool) -> None:
    world = World(no_replica_wait_s=0.01)
    world.beat("a")
    flight = world.submit(stream=stream)
    if stream:
        world.serving.on_reply("q1", token(0))
    world.serving.on_reply(*retired("q1"))
    world.beat("a", state="stopped")
    world.pass_time(60.0)
    other = world.submit()
    world.clock.now += 0.02
    await wait_for(lambda: not other.open)  # what came later does not
    assert flight.open
    world.beat("b")
    world.clock.now += 0.01
    await wait_for(lambda: len(world.wire.sent) == 2)
    assert world.wire.sent[-1][0] == "b"


async def test_what_a_client_has_begun_to_read_is_not_rejected() -> None:
    world = World(
        library.source("round_robin").split("def route")[0]
        + "def route(request, replicas, ctx):\n    return REJECT if request.prompt_tokens > 1 else Assign(0)\n",
        max_reject_share=1.0,
    )
    world.beat("a", "b")
    flight = world.submit()
    for seq in range(8):
        world.serving.on_reply("q1", token(seq))
    world.serving.on_reply(*retired("q1"))
    assert flight.open
    assert len(world.wire.sent) == 2


async def test_a_slow_client_holds_its_server_back_and_never_the_memory(world: World) -> None:
    world.beat("a")
    flight = world.submit()
    for seq in range(OVERFLOW):
        world.serving.on_reply("q1", token(seq))
    assert flight.outcome == "cancelled"
    assert world.wire.cancelled
    error = (await answers(flight))[-1]
    assert isinstance(error, ApiError)
    assert error.code == "slow_client"
