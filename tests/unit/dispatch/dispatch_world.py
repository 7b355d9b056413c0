"""A small world that drives a dispatcher at random and checks every order it gives."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

from dispatch_fakes import FakePolicy, activation, beat
from hypothesis import strategies as st

from autopoiesis.contracts.messages.policy import Activation
from autopoiesis.dispatch import events as ev
from autopoiesis.dispatch.core import Dispatcher
from autopoiesis.dispatch.recording import encode
from autopoiesis.dispatch.settings import DispatchSettings
from autopoiesis.policy.api import HOLD, REJECT, Assign, DispatchContext, Replica, Request, RouteDecision

REPLICAS = ("a", "b", "c", "d")
MODEL_OF = {"a": "m", "b": "m", "c": "m", "d": "other"}
SETTINGS = DispatchSettings(
    hold_max_s=4.0,
    max_queue=8,
    no_replica_wait_s=2.0,
    suspect_after_s=1.0,
    fuel_per_wake=60,
    fuel_per_second=2000,
)

KINDS = (
    ["arrive"] * 9 + ["beat"] * 7 + ["tokens"] * 5 + ["end"] * 4 + ["leave"] * 2
    + ["fail", "bounce", "gone", "restart", "drain", "activate", "wake"]
)  # fmt: skip
PAUSES = [0.0] * 4 + [0.001, 0.01, 0.05, 0.1, 0.3, 1.7]


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[str, int, float]]:
    """Steps with a number and a pause before each. All replicas are heard of first, or little would happen."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    opening = [("beat", number, 0.0) for number in range(draw(st.integers(0, 4)))]
    length = draw(st.integers(0, 200))
    return opening + [(rng.choice(KINDS), rng.randrange(1000), rng.choice(PAUSES)) for _ in range(length)]


STEPS = histories()


class MoodyPolicy(FakePolicy):
    """Assigns, holds, rejects or raises by chance, and notes every view that is not as it should be."""

    def __init__(
        self, name: str = "moody", hold: float = 0.4, reject: float = 0.1, fault: float = 0.05
    ) -> None:
        super().__init__(self._decide, self._rank, name=name)
        self.wrong: list[str] = []
        self._odds = (hold, hold + reject, hold + reject + fault)

    def _decide(self, request: Request, replicas: Sequence[Replica], ctx: DispatchContext) -> RouteDecision:
        self.check(request, replicas, ctx)
        mood = ctx.random()
        hold, reject, fault = self._odds
        if mood < hold:
            return HOLD
        if mood < reject:
            return REJECT
        if mood < fault:
            raise RuntimeError("moody")
        return Assign(int(ctx.random() * len(replicas)))

    def _rank(self, request: Request, ctx: DispatchContext) -> float:
        mood = ctx.random()
        if mood < self._odds[2] - self._odds[1]:
            raise RuntimeError("moody")
        return math.floor(4 * mood) - request.waited

    def check(self, request: Request, replicas: Sequence[Replica], ctx: DispatchContext) -> None:
        for position, replica in enumerate(replicas):
            if replica.index != position:
                self.wrong.append(f"index {replica.index} at {position}")
            for name in ("running", "waiting", "queued_prefill_tokens", "kv_used_tokens", "inflight"):
                if not (isinstance(getattr(replica, name), int) and getattr(replica, name) >= 0):
                    self.wrong.append(f"{name} is {getattr(replica, name)!r}")
            for name in ("predicted_ttft", "predicted_tpot", "stats_age", "uptime", "notice", "fault_rate"):
                value = getattr(replica, name)
                if not value >= 0 or (value == math.inf and name != "notice"):
                    self.wrong.append(f"{name} is {value!r}")
            if not 0 <= replica.prefix_hit_tokens <= request.prompt_tokens:
                self.wrong.append(f"{replica.prefix_hit_tokens} hits of {request.prompt_tokens}")
        for view in (request, ctx):
            for name in ("waited", "tenant_service", "arrival_rate", "mean_output_tokens", "attainment"):
                value = getattr(view, name, 0.0)
                if not 0 <= value < math.inf:
                    self.wrong.append(f"{name} is {value!r}")


def compile_moody(source: Activation) -> FakePolicy:
    if source.source == "bad":
        raise SyntaxError("bad source")
    return MoodyPolicy(source.hash)


class World:
    """Turns steps into events that could happen, keeps the truth, and checks orders against it."""

    def __init__(self, policy: FakePolicy, settings: DispatchSettings = SETTINGS) -> None:
        self.settings = settings
        self.dispatcher = Dispatcher(settings, router="r1", policy=policy, seed=7, compile=compile_moody)
        self.lines: list[bytes] = []
        self.now = 0.0
        self.open: dict[str, str | None] = {}  # request to the replica it is at, None while it is held
        self.streaming: set[str] = set()
        self.arrivals: list[float] = []
        self.rejects: list[float] = []
        self.outcomes: dict[str, str] = {}
        self.sends: dict[str, int] = {}
        self.excused: dict[str, int] = {}  # sends that came back from a replica that was leaving
        self.incarnation = dict.fromkeys(REPLICAS, 0)
        self.beats = dict.fromkeys(REPLICAS, 0)
        self.heard = dict.fromkeys(REPLICAS, -math.inf)
        self.ready = dict.fromkeys(REPLICAS, False)
        self.leaving = dict.fromkeys(REPLICAS, False)
        self.nth = dict.fromkeys(REPLICAS, 0)
        self.epoch = 0

    def run(self, steps: list[tuple[str, int, float]]) -> None:
        for kind, number, pause in steps:
            self.pass_time(pause)
            getattr(self, kind)(number)
        self.finish()

    def feed(self, event: ev.Event) -> None:
        actions = self.dispatcher.handle(self.now, event)
        self.lines.append(encode(self.now, event, actions))
        for action in actions:
            self.check(action)
        for model in ("m", "other"):
            held = [name for name, at in self.open.items() if at is None]
            assert self.dispatcher.queue_length(model) <= len(held)

    def pass_time(self, pause: float) -> None:
        until = self.now + pause
        while (wake := self.dispatcher.next_wake) <= until:
            self.now = max(self.now, wake)
            self.feed(ev.Wake())
            assert self.dispatcher.next_wake > self.now, "a wake must not ask for another at once"
        self.now = until

    def check(self, action: ev.Action) -> None:
        match action:
            case ev.Send():
                assert self.open[action.request_id] is None, "one live send per request"
                assert self.ready[action.replica], "only to replicas that are ready"
                assert self.now < self.heard[action.replica] + self.settings.suspect_after_s
                assert MODEL_OF[action.replica] == action.request_id.split("-")[0]
                self.nth[action.replica] += 1
                assert action.nth == self.nth[action.replica]
                self.sends[action.request_id] = self.sends.get(action.request_id, 0) + 1
                assert action.attempt == self.sends[action.request_id]
                assert action.attempt - self.excused.get(action.request_id, 0) <= self.settings.max_attempts
                self.open[action.request_id] = action.replica
            case ev.Refuse():
                assert self.open[action.request_id] is None
                if action.reason == "rejected":
                    self.rejects.append(self.now)
                    assert action.request_id not in self.sends
                    self.check_reject_share()
                self.close(action.request_id, action.reason)
            case ev.Lost():
                self.close(action.request_id, "lost")
            case ev.Abort():
                assert self.outcomes[action.request_id] == "left"

    def check_reject_share(self) -> None:
        since = math.floor(self.now) - 60
        recent = [sum(at >= since for at in times) for times in (self.rejects, self.arrivals)]
        assert recent[0] <= self.settings.max_reject_share * recent[1]

    def close(self, request: str, how: str) -> None:
        assert request not in self.outcomes, "a request ends once"
        del self.open[request]
        self.streaming.discard(request)
        self.outcomes[request] = how

    def pick(self, number: int, requests: Sequence[str]) -> str | None:
        return requests[number % len(requests)] if requests else None

    @property
    def running(self) -> list[str]:
        return [name for name, at in self.open.items() if at is not None]

    # steps

    def arrive(self, number: int) -> None:
        model = "other" if number % 5 == 0 else "m"
        name = f"{model}-{len(self.arrivals)}"
        self.arrivals.append(self.now)
        self.open[name] = None
        fields: dict[str, Any] = {"deadline": self.now + 3.0} if number % 7 == 0 else {}
        self.feed(
            ev.Arrival(
                request_id=name,
                model=model,
                prompt_bytes=number * 40,
                max_tokens=1 + number,
                klass=("", "batch")[number % 2],
                tenant=f"t{number % 3}",
                session=("", f"s{number % 4}")[number % 2],
                workflow=("", f"w{number % 3}")[number % 2],
                block_hashes=tuple(range(number % 5)),
                ttft_slo=1.0,
                **fields,
            )
        )

    def beat(self, number: int, state: str = "ready") -> None:
        name = REPLICAS[number % 4]
        self.beats[name] += 1
        self.heard[name], self.ready[name] = self.now, state == "ready"
        self.leaving[name] = state == "draining"
        if state == "failed":
            self.expect_orphans(name)
        received = {"r1": max(0, self.nth[name] - number % 3)}
        self.feed(
            beat(
                name,
                self.beats[name],
                model=MODEL_OF[name],
                incarnation=f"i{self.incarnation[name]}",
                state=state,
                running=number % 70,
                waiting=number % 3,
                queued_prefill_tokens=number,
                kv_used_tokens=number * 120,
                received=received,
                step_model=None if name == "b" else beat().heartbeat.step_model,
            )
        )

    def expect_orphans(self, replica: str) -> None:
        """What ran there may be sent again before `feed` returns."""
        for name in [name for name, at in self.open.items() if at == replica]:
            self.give_back(name)

    def give_back(self, request: str) -> None:
        replica, self.open[request] = self.open[request], None
        assert replica is not None
        self.excused[request] = self.excused.get(request, 0) + self.leaving[replica]

    def tokens(self, number: int) -> None:
        if name := self.pick(number, self.running):
            self.streaming.add(name)
            self.feed(ev.Tokens(name, number % 90))

    def end(self, number: int) -> None:
        if name := self.pick(number, self.running):
            self.close(name, "ended")
            tokens = number % 500
            self.feed(
                ev.Ended(request_id=name, prompt_tokens=number, output_tokens=tokens, natural=number % 2 == 0)
            )

    def fail(self, number: int) -> None:
        if name := self.pick(number, self.running):
            self.close(name, "failed")
            self.feed(ev.Ended(request_id=name, code="internal", natural=False))

    def leave(self, number: int) -> None:
        if name := self.pick(number, list(self.open)):
            self.close(name, "left")
            self.feed(ev.Left(name))

    def bounce(self, number: int) -> None:
        if name := self.pick(number, [name for name in self.running if name not in self.streaming]):
            replica = self.open[name]
            assert replica is not None
            self.ready[replica] = False
            self.give_back(name)
            self.feed(ev.Bounced(name, "draining"))

    def gone(self, number: int) -> None:
        name = REPLICAS[number % 4]
        self.ready[name] = False
        self.expect_orphans(name)
        self.feed(ev.ReplicaGone(name, "no responder"))

    def restart(self, number: int) -> None:
        name = REPLICAS[number % 4]
        self.incarnation[name] += 1
        self.expect_orphans(name)
        self.beat(number)

    def drain(self, number: int) -> None:
        self.beat(number, ("draining", "failed", "loading")[number % 3])

    def activate(self, number: int) -> None:
        epoch = self.epoch + number % 3 - 1
        source = "bad" if number % 4 == 0 else "good"
        before = self.dispatcher.epoch
        self.feed(ev.Activated(activation(epoch, source, f"moody-{epoch}")))
        if epoch <= self.epoch or source == "bad":
            assert self.dispatcher.epoch == before
        else:
            assert self.dispatcher.epoch == epoch
        self.epoch = max(self.epoch, epoch)

    def wake(self, number: int) -> None:
        self.feed(ev.Wake())

    def finish(self) -> None:
        """End what runs until nothing is left: it must come to an end."""
        for round_ in range(200):
            for name in self.running:
                self.close(name, "ended")
                self.feed(ev.Ended(request_id=name, output_tokens=1))
            if not self.open:
                break
            for replica in range(4):
                self.beat(4 * round_ + replica)
            self.pass_time(0.25)
        assert not self.open
        assert len(self.outcomes) == len(self.arrivals)
        assert self.dispatcher.stats().inflight == 0
        self.pass_time(30.0)
        assert self.dispatcher.next_wake == math.inf
