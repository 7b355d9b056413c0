"""Prefill and decode apart: who chooses where a computed prompt goes on, and what is then counted where."""

from collections.abc import Sequence
from typing import Any

import pytest
from dispatch_fakes import FakePolicy, arrival, beat, dispatcher

from autopoiesis.dispatch import events as ev
from autopoiesis.dispatch.core import Dispatcher
from autopoiesis.policy.api import HOLD, Assign, DispatchContext, Replica, Request, RouteDecision

LINKS: dict[str, Any] = {"kv_token_bytes": 1000, "link_bandwidth": 1e6, "network_bandwidth": 1e5}


class Splitting(FakePolicy):
    """Prompts go to the first replica; `place` says where they go on, and notes the transfer times it saw."""

    functions = frozenset({"route", "prioritize", "place_decode"})

    def __init__(self, place: int | None = None, decode: int = -1, answer: Any = None) -> None:
        super().__init__(lambda request, replicas, ctx: Assign(0, decode))
        self.seen: list[float] = []
        self._place = place
        self._answer = answer

    def place_decode(
        self, request: Request, replicas: Sequence[Replica], ctx: DispatchContext
    ) -> RouteDecision:
        self.seen = [replica.transfer_time for replica in replicas]
        return self._answer if self._place is None else Assign(self._place)


def split(policy: FakePolicy) -> Dispatcher:
    core = dispatcher(policy)
    core.handle(0.0, beat("p", role="prefill", node="n1", **LINKS))
    core.handle(0.0, beat("d1", role="decode", node="n1", **LINKS))
    core.handle(0.0, beat("d2", role="decode", node="n2", **LINKS))
    return core


def hand_over(core: Dispatcher) -> ev.HandOver:
    core.handle(0.0, arrival("q", prompt_bytes=4000))
    core.handle(0.1, ev.Tokens("q", 1))
    order = core.handle(0.1, ev.Prefilled("q"))[-1]
    assert isinstance(order, ev.HandOver)
    return order


def test_the_policy_chooses_and_sees_what_moving_takes() -> None:
    policy = Splitting(place=2)
    order = hand_over(split(policy))
    assert (order.source, order.replica, order.nth, order.fallback) == ("p", "d2", 1, False)
    assert policy.seen == pytest.approx([0.0, 1.0, 10.0])


def test_a_joint_choice_stands() -> None:
    policy = Splitting(place=2, decode=1)
    assert hand_over(split(policy)).replica == "d1"
    assert policy.seen == []


def test_a_joint_choice_that_has_gone_is_made_anew() -> None:
    core = split(Splitting(place=2, decode=1))
    core.handle(0.0, arrival("q"))
    core.handle(0.0, beat("d1", 2, state="draining", role="decode", node="n1"))
    core.handle(0.1, ev.Tokens("q", 1))
    order = core.handle(0.1, ev.Prefilled("q"))[-1]
    assert isinstance(order, ev.HandOver)
    assert order.replica == "d2"


@pytest.mark.parametrize("policy", [Splitting(place=0), Splitting(answer=HOLD)])
def test_faulty_choices_are_the_fallbacks(policy: Splitting) -> None:
    core = split(policy)
    core.handle(0.0, arrival("q"))
    core.handle(0.1, ev.Tokens("q", 1))
    fault, order = core.handle(0.1, ev.Prefilled("q"))
    assert isinstance(fault, ev.Fault)
    assert "place_decode" in fault.fault
    assert isinstance(order, ev.HandOver)
    assert order.fallback
    assert order.replica in {"d1", "d2"}


def test_where_nobody_decodes_the_prompt_stays() -> None:
    core = dispatcher(FakePolicy(lambda request, replicas, ctx: Assign(0)))
    core.handle(0.0, beat("p", role="prefill"))
    order = hand_over(core)
    assert order.source == order.replica == "p"


def test_the_request_counts_where_it_decodes_and_ends_there() -> None:
    seen: dict[str, tuple[int, int, int]] = {}

    def route(request: Request, replicas: Sequence[Replica], ctx: DispatchContext) -> RouteDecision:
        for name, replica in zip(("p", "d1", "d2"), replicas, strict=True):
            seen[name] = replica.inflight, replica.queued_prefill_tokens, replica.kv_used_tokens
        return Assign(0)

    policy = Splitting(place=1)
    policy._route = route
    core = split(policy)
    hand_over(core)
    core.handle(0.2, arrival("r"))
    assert seen["p"] == (0, 0, 0)
    assert seen["d1"] == (1, 0, 1000)
    core.handle(0.3, ev.Ended(request_id="q", output_tokens=10))
    core.handle(0.4, arrival("s"))
    assert seen["d1"][:2] == (0, 0)
    assert core.stats().counters.handovers == 1


def test_a_loss_where_it_decodes_is_final() -> None:
    core = split(Splitting(place=1))
    hand_over(core)
    (lost,) = core.handle(0.2, ev.ReplicaGone("d1", "gone"))
    assert lost == ev.Lost("q", "d1", "gone")
