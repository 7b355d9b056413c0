"""A dispatcher whose policy stays keeps less, and orders the same."""

from typing import cast

import pytest
from dispatch_fakes import FakePolicy, activation, beat, dispatcher, least_inflight
from dispatch_world import SETTINGS, STEPS, World
from hypothesis import given, settings
from hypothesis import strategies as st

from autopoiesis.dispatch import events as ev
from autopoiesis.dispatch.core import Dispatcher
from autopoiesis.dispatch.keeping import Kept, kept_for
from autopoiesis.dispatch.port import Compile
from autopoiesis.policy import library
from autopoiesis.policy.language import compile_policy

POLICIES = library.names("dispatch", every=True)


class Pair:
    """Tells everything to a router whose policy may be swapped and to one whose policy stays."""

    def __init__(self, source: str) -> None:
        def one(compile_: Compile | None) -> Dispatcher:
            policy = compile_policy(source, "dispatch")
            return Dispatcher(SETTINGS, router="r1", policy=policy, seed=7, compile=compile_)

        self.swapped = one(lambda activation: compile_policy(source, "dispatch"))
        self.stays = one(None)
        self.queue_length, self.stats = self.stays.queue_length, self.stays.stats

    def handle(self, now: float, event: ev.Event) -> list[ev.Action]:
        orders = self.swapped.handle(now, event)
        assert self.stays.handle(now, event) == orders
        return orders

    @property
    def next_wake(self) -> float:
        assert self.swapped.next_wake == self.stays.next_wake
        return self.stays.next_wake


@settings(max_examples=150, deadline=None)
@given(STEPS, st.sampled_from(POLICIES))
def test_what_nobody_reads_changes_no_order(steps: list[tuple[str, int, float]], policy: str) -> None:
    world = World(FakePolicy(least_inflight))
    world.dispatcher = cast(Dispatcher, Pair(library.source(policy)))
    world.run([step for step in steps if step[0] != "activate"])


def test_what_is_read_is_kept() -> None:
    assert kept_for({}) == Kept(False, False, False, False, False)
    reads = {name: compile_policy(library.source(name), "dispatch").reads for name in POLICIES}
    assert kept_for(reads["least_kv_tokens"]) == kept_for({})
    assert kept_for(reads["virtual_token_fairness"]).service
    assert kept_for(reads["session_affinity"]).callers
    assert kept_for({"Request": frozenset({"workflow"})}) == Kept(True, False, True, False, False)
    assert kept_for({"DispatchContext": frozenset({"attainment"})}).attainment
    assert kept_for({"Replica": frozenset({"predicted_tpot"})}).paces


def test_a_policy_that_stays_is_not_swapped() -> None:
    core = dispatcher(compile_=None)
    core.handle(0.0, beat())
    with pytest.raises(RuntimeError, match="compile"):
        core.handle(0.0, ev.Activated(activation(1)))
