"""The serving core with the real dispatcher, and a transport and clock of the test's own."""

from typing import Any

import msgspec

from autopoiesis.contracts.messages.fleet import Heartbeat
from autopoiesis.contracts.messages.infer import FailureCode, Finished, Generate
from autopoiesis.contracts.slo import STANDARD
from autopoiesis.dispatch import Dispatcher, DispatchSettings
from autopoiesis.dispatch import events as ev
from autopoiesis.policy import library
from autopoiesis.policy.language import compile_policy
from autopoiesis.router.fleet import Fleet
from autopoiesis.router.flight import Flight
from autopoiesis.router.hedging import Hedging
from autopoiesis.router.identity import Identities
from autopoiesis.router.intake import read
from autopoiesis.router.policies import compile_activation
from autopoiesis.router.serving import Patience, Serving

FINISHED = Finished(seq=1, finish_reason="stop", prompt_tokens=3, output_tokens=2, first_token_s=0.2)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Wire:
    """A transport that remembers."""

    def __init__(self) -> None:
        self.connected = True
        self.direct_ready = False
        self.sent: list[tuple[str, Generate]] = []
        self.cancelled: list[tuple[str, FailureCode]] = []
        self.closed: list[str] = []

    def send(self, replica: str, generate: Generate, headers: dict[str, str], upload: object = None) -> None:
        self.sent.append((replica, generate))

    def cancel(self, wire: str, reason: FailureCode) -> None:
        self.cancelled.append((wire, reason))

    def close(self, wire: str) -> None:
        self.closed.append(wire)

    def pause(self, wire: str) -> None: ...

    def resume(self, wire: str) -> None: ...


class Ear:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.over: list[Flight] = []
        self.races: list[tuple[str, str]] = []
        self.swaps: list[ev.Swapped] = []

    def begun(self, flight: Flight) -> None: ...

    def decided(self, seconds: float) -> None: ...

    def sent(self, flight: Flight) -> dict[str, str]:
        return {}

    def resumed(self, flight: Flight, reason: str) -> None: ...

    def hedged(self, flight: Flight, loser: Flight, result: str) -> None:
        self.races.append((result, flight.replica))

    def ended(self, flight: Flight, now: float) -> None:
        self.over.append(flight)

    def fault(self, fault: ev.Fault) -> None: ...

    def swapped(self, swapped: ev.Swapped) -> None:
        self.swaps.append(swapped)


class World:
    def __init__(
        self,
        source: str = library.source("round_robin"),
        *,
        hedging: Hedging | None = None,
        **settings: Any,
    ) -> None:
        self.clock, self.wire, self.ear = Clock(), Wire(), Ear()
        policy = compile_policy(source, "dispatch")
        dispatcher = Dispatcher(
            DispatchSettings(**settings), router="r-1", policy=policy, compile=compile_activation
        )
        self.serving = Serving(
            dispatcher,
            self.wire,
            self.ear,
            Fleet(),
            router="r-1",
            patience=Patience(),
            hedging=hedging,
            clock=self.clock,
        )
        self._beat = 0
        self.submitted = 0

    def beat(self, *replicas: str, state: Any = "ready", incarnation: str = "1") -> None:
        self._beat += 1
        for name in replicas:
            self.serving.beat(
                Heartbeat(
                    node=f"node-of-{name}",
                    replica=name,
                    incarnation=incarnation,
                    beat=self._beat,
                    state=state,
                    model="m",
                    gpu="H100",
                    kv_capacity_tokens=1000,
                    max_running=8,
                )
            )

    def submit(self, *, stream: bool = True, klass: str = "") -> Flight:
        self.submitted += 1
        body = msgspec.json.encode(
            {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": stream}
        )
        identity = Identities(STANDARD, b"k").read([(b"x-slo-class", klass.encode())] if klass else [])
        flight = Flight(f"q{self.submitted}", read("chat", body), identity, msgspec.Raw(body), max_tokens=10)
        self.serving.submit(flight)
        return flight

    def pass_time(self, seconds: float) -> None:
        """Let time pass as the sweeper sees it."""
        while seconds > 0:
            step = min(seconds, 0.5)
            self.clock.now += step
            seconds -= step
            self.serving.sweep()
