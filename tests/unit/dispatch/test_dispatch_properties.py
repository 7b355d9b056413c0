from dispatch_world import SETTINGS, STEPS, MoodyPolicy, World, compile_moody
from hypothesis import given, settings
from hypothesis import strategies as st

from autopoiesis.dispatch.core import Dispatcher
from autopoiesis.dispatch.recording import replay

Steps = list[tuple[str, int, float]]


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_every_request_ends_once_and_every_order_can_be_carried_out(steps: Steps) -> None:
    policy = MoodyPolicy()
    World(policy).run(steps)
    assert policy.wrong == []


@settings(max_examples=60, deadline=None)
@given(STEPS, st.sampled_from([(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)]))
def test_no_policy_can_keep_requests_from_ending(steps: Steps, odds: tuple[float, float, float]) -> None:
    World(MoodyPolicy("stubborn", *odds)).run(steps)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_a_record_replays_to_the_same_orders(steps: Steps) -> None:
    world = World(MoodyPolicy())
    world.run(steps)
    again = Dispatcher(SETTINGS, router="r1", policy=MoodyPolicy(), seed=7, compile=compile_moody)
    assert replay(world.lines, again) is None


def test_a_replay_names_the_first_line_that_differs() -> None:
    world = World(MoodyPolicy(hold=0.0, reject=0.0, fault=0.0))
    world.run(
        [("beat", 0, 0.0), ("beat", 1, 0.0), *[("arrive", 2 * number + 1, 0.01) for number in range(30)]]
    )
    other = Dispatcher(SETTINGS, router="r1", policy=MoodyPolicy(), seed=8, compile=compile_moody)
    difference = replay(world.lines, other)
    assert difference is not None
    assert difference.recorded != difference.replayed
    assert world.lines[difference.line - 1].startswith(b'{"now":%s' % repr(difference.now).encode())
