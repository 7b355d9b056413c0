"""Second attempts of requests whose first token is late."""

from collections.abc import Awaitable, Callable

import pytest
from serving_world import FINISHED, World

from autopoiesis.contracts.messages.infer import Chunk, Failed, Finished
from autopoiesis.policy import library
from autopoiesis.router.errors import ApiError
from autopoiesis.router.flight import Flight
from autopoiesis.router.hedging import BURST, LEAST, Hedging

WaitFor = Callable[..., Awaitable[None]]


def hedging(share: float = 1.0) -> Hedging:
    return Hedging(share, 0.001, 0.95)


async def late(world: World, wait_for: WaitFor) -> Flight:
    """A stream whose first token is late, so that both replicas have it."""
    world.beat("a", "b")
    flight = world.submit()
    await wait_for(lambda: len(world.wire.sent) == 2)
    assert {replica for replica, _ in world.wire.sent} == {"a", "b"}
    assert [generate.request_id for _, generate in world.wire.sent] == ["q1", "q1-hedge"]
    assert world.serving.in_flight == 1
    return flight


def words(flight: Flight) -> list[str]:
    return [item.text for item in flight.take() if isinstance(item, Chunk)]


def token(number: int) -> Chunk:
    return Chunk(seq=number, text=f"t{number}", tokens=1, token_ids=(number,))


@pytest.mark.parametrize(
    ("winner", "loser", "result"), [("q1", "q1-hedge", "lost"), ("q1-hedge", "q1", "won")]
)
async def test_the_first_token_wins_and_the_other_attempt_ends(
    wait_for: WaitFor, winner: str, loser: str, result: str
) -> None:
    world = World(hedging=hedging())
    flight = await late(world, wait_for)
    world.serving.on_reply(loser, Chunk(seq=0))  # a sign of life decides nothing
    for number in range(3):
        world.serving.on_reply(winner, token(number))
        world.serving.on_reply(loser, Chunk(seq=number, text="late", tokens=1, token_ids=(9,)))
    world.serving.on_reply(loser, FINISHED)
    assert flight.open
    world.serving.on_reply(winner, FINISHED)
    assert words(flight) == ["t0", "t1", "t2"]
    assert flight.token_ids == [0, 1, 2]
    assert world.wire.cancelled == [(loser, "cancelled")]
    where = {generate.request_id: replica for replica, generate in world.wire.sent}
    assert world.ear.races == [(result, where[winner])]
    assert (flight.outcome, flight.replica, flight.attempts) == ("finished", where[winner], 2)
    assert (world.serving.in_flight, len(world.ear.over)) == (0, 1)


@pytest.mark.parametrize("failing", ["q1", "q1-hedge"])
async def test_an_attempt_that_fails_leaves_it_to_the_other(wait_for: WaitFor, failing: str) -> None:
    world = World(hedging=hedging())
    flight = await late(world, wait_for)
    world.serving.on_reply(failing, Failed(seq=0, code="internal", message="broken"))
    assert flight.open
    other = "q1" if failing == "q1-hedge" else "q1-hedge"
    world.serving.on_reply(other, token(0))
    world.serving.on_reply(other, FINISHED)
    assert words(flight) == ["t0"]
    assert (world.serving.in_flight, len(world.ear.over), flight.outcome) == (0, 1, "finished")


@pytest.mark.parametrize("gone", [0, 1])
async def test_a_replica_that_goes_leaves_it_to_the_other(wait_for: WaitFor, gone: int) -> None:
    world = World(hedging=hedging())
    flight = await late(world, wait_for)
    replica, generate = world.wire.sent[gone]
    world.serving.on_gone(generate.request_id, replica, "nobody listens")
    left = world.wire.sent[1 - gone][1].request_id
    world.serving.on_reply(left, token(0))
    world.serving.on_reply(left, FINISHED)
    assert words(flight) == ["t0"]
    assert len(world.wire.sent) == 2, "nobody is asked twice"
    assert (world.serving.in_flight, flight.outcome) == (0, "finished")


async def test_a_client_that_leaves_ends_both(wait_for: WaitFor) -> None:
    world = World(hedging=hedging())
    flight = await late(world, wait_for)
    world.serving.leave(flight)
    assert sorted(wire for wire, _ in world.wire.cancelled) == ["q1", "q1-hedge"]
    assert (world.serving.in_flight, len(world.ear.over)) == (0, 1)


async def test_a_winner_that_fails_later_is_resumed(wait_for: WaitFor) -> None:
    world = World(hedging=hedging())
    flight = await late(world, wait_for)
    world.serving.on_reply("q1-hedge", token(0))
    world.serving.on_gone("q1-hedge", flight.replica, "it is gone")
    _, generate = world.wire.sent[-1]
    assert generate.resume_token_ids == (0,)
    assert generate.request_id not in {"q1", "q1-hedge"}
    world.serving.on_reply(generate.request_id, token(1))
    world.serving.on_reply(generate.request_id, FINISHED)
    assert words(flight) == ["t0", "t1"]


async def test_the_same_replica_is_not_asked_twice(wait_for: WaitFor) -> None:
    world = World(hedging=hedging())
    world.beat("a")
    flight = world.submit()
    await wait_for(lambda: world.ear.races == [("unsent", "a")])
    assert len(world.wire.sent) == 1
    world.serving.on_reply("q1", FINISHED)
    assert isinstance(flight.take()[-1], Finished)


async def test_both_refused_is_one_answer(wait_for: WaitFor) -> None:
    world = World(hedging=hedging())
    flight = await late(world, wait_for)
    refusal = Failed(seq=0, code="invalid_request", message="too hot", param="temperature")
    world.serving.on_reply("q1", refusal)
    world.serving.on_reply("q1-hedge", refusal)
    (error,) = flight.take()
    assert isinstance(error, ApiError)
    assert error.param == "temperature"


async def test_whole_answers_have_no_second_attempt(wait_for: WaitFor) -> None:
    world = World(library.source("round_robin"), hedging=hedging())
    world.beat("a", "b")
    world.submit(stream=False)
    world.submit()
    await wait_for(lambda: len(world.wire.sent) == 3)
    assert [generate.request_id for _, generate in world.wire.sent] == ["q1", "q2", "q2-hedge"]


def test_the_budget_is_a_share_of_what_arrives() -> None:
    budget = hedging(0.25)
    granted = 0
    for _ in range(100):
        budget.earn()
        granted += budget.spend()
    assert granted == 25
    for _ in range(1000):
        budget.earn()
    assert sum(budget.spend() for _ in range(100)) == BURST
    budget.refund()
    assert budget.spend()


def test_late_is_what_few_first_tokens_were() -> None:
    late = Hedging(0.1, 0.5, 0.9)
    assert late.delay_s("m") == 0.5
    for number in range(LEAST):
        late.observe("m", 0.1 * number)
    assert late.delay_s("m") == pytest.approx(2.8)
    assert late.delay_s("other") == 0.5
