"""Policies in plain Python, heartbeats, and a dispatcher to try them on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from autopoiesis.contracts.messages.fleet import Heartbeat, StepModel
from autopoiesis.contracts.messages.policy import Activation
from autopoiesis.dispatch import events as ev
from autopoiesis.dispatch.core import Dispatcher
from autopoiesis.dispatch.settings import DispatchSettings
from autopoiesis.policy.api import VIEWS, Assign, DispatchContext, Replica, Request, RouteDecision

EVERYTHING = {name: frozenset(vars(cls)["__slots__"]) for name, cls in VIEWS.items()}
STEP = StepModel(base_s=0.01, prefill_token_s=1e-4, kv_token_s=1e-8, sequence_s=1e-4, chunk_tokens=1000)

Route = Callable[[Request, Sequence[Replica], DispatchContext], RouteDecision]
Prioritize = Callable[[Request, DispatchContext], float]


class FakePolicy:
    """A policy whose functions are given."""

    def __init__(
        self,
        route: Route,
        prioritize: Prioritize = lambda request, ctx: request.arrival,
        *,
        name: str = "fake",
        reads: Mapping[str, frozenset[str]] = EVERYTHING,
        fuel: int = 10,
    ) -> None:
        self.hash = name
        self.reads = reads
        self.fuel_used = fuel
        self._route = route
        self._prioritize = prioritize

    def route(self, request: Request, replicas: Sequence[Replica], ctx: DispatchContext) -> RouteDecision:
        return self._route(request, replicas, ctx)

    def prioritize(self, request: Request, ctx: DispatchContext) -> float:
        return self._prioritize(request, ctx)


def least_inflight(request: Request, replicas: Sequence[Replica], ctx: DispatchContext) -> RouteDecision:
    return Assign(min(replicas, key=lambda replica: (replica.inflight, replica.index)).index)


def no_compiler(activation: Activation) -> FakePolicy:
    raise AssertionError("no activation is expected")


def dispatcher(
    policy: FakePolicy | None = None, *, compile_: Any = no_compiler, **settings: Any
) -> Dispatcher:
    return Dispatcher(
        DispatchSettings(**settings),
        router="r1",
        policy=policy or FakePolicy(least_inflight),
        compile=compile_,
    )


def beat(replica: str = "a", number: int = 1, **fields: Any) -> ev.Beat:
    defaults: dict[str, Any] = {
        "node": f"node-of-{replica}",
        "incarnation": "i1",
        "state": "ready",
        "model": "m",
        "gpu": "H100",
        "step_model": STEP,
        "kv_capacity_tokens": 100_000,
        "max_running": 64,
    }
    return ev.Beat(Heartbeat(replica=replica, beat=number, **{**defaults, **fields}))


def arrival(name: str = "q", **fields: Any) -> ev.Arrival:
    defaults: dict[str, Any] = {"model": "m", "prompt_bytes": 400, "max_tokens": 100}
    return ev.Arrival(request_id=name, **{**defaults, **fields})


def activation(epoch: int, source: str = "s", name: str = "h") -> Activation:
    return Activation(
        scope="local/m",
        kind="dispatch",
        epoch=epoch,
        hash=name,
        source=source,
        api=1,
        cause="test",
        at_unix_s=0.0,
    )
