"""The corrected figures of a replica against an engine whose true state is known."""

from collections.abc import Sequence

from dispatch_fakes import FakePolicy, arrival, beat, dispatcher
from hypothesis import given, settings
from hypothesis import strategies as st

from autopoiesis.dispatch import events as ev
from autopoiesis.policy.api import Assign, DispatchContext, Replica, Request

LIMIT = 3
STEPS = st.lists(
    st.tuples(st.sampled_from(["send", "send", "arrive", "beat", "token", "token", "end", "leave"]), st.integers(0, 99)),
    max_size=80,
)  # fmt: skip


class Engine:
    """First come, first served; a prompt is computed whole when the first token comes. Sends travel before they arrive."""

    def __init__(self) -> None:
        self.core = dispatcher(FakePolicy(self.look))
        self.travelling: list[str] = []
        self.inside: list[str] = []
        self.prompt: dict[str, int] = {}
        self.tokens: dict[str, int] = {}
        self.received = 0
        self.beats = 0
        self.seen: Replica | None = None
        self.beat(0)

    def look(self, request: Request, replicas: Sequence[Replica], ctx: DispatchContext) -> Assign:
        self.check(replicas[0])
        return Assign(0)

    def check(self, view: Replica) -> None:
        present = self.inside + self.travelling
        computed = [name for name in present if self.tokens[name]]
        assert view.inflight == len(present)
        assert view.running == min(len(present), LIMIT)
        assert view.waiting == len(present) - view.running
        assert view.queued_prefill_tokens == sum(
            self.prompt[name] for name in present if name not in computed
        )
        held = sum(self.prompt[name] + self.tokens[name] for name in computed)
        assert held <= view.kv_used_tokens <= held + view.queued_prefill_tokens

    @property
    def running(self) -> list[str]:
        return self.inside[:LIMIT]

    def send(self, number: int) -> None:
        name = f"q{len(self.prompt)}"
        event = arrival(name, prompt_bytes=4 * (number + 1))
        (order,) = self.core.handle(0.5, event)
        assert isinstance(order, ev.Send)
        self.prompt[name], self.tokens[name] = order.prompt_tokens, 0
        self.travelling.append(name)

    def arrive(self, number: int) -> None:
        if self.travelling:
            self.inside.append(self.travelling.pop(0))
            self.received += 1

    def beat(self, number: int) -> None:
        self.beats += 1
        computed = [name for name in self.inside if self.tokens[name]]
        event = beat(
            "a",
            self.beats,
            max_running=LIMIT,
            running=min(len(self.inside), LIMIT),
            waiting=max(0, len(self.inside) - LIMIT),
            queued_prefill_tokens=sum(self.prompt[name] for name in self.inside if name not in computed),
            kv_used_tokens=sum(self.prompt[name] + self.tokens[name] for name in computed),
            received={"r1": self.received, "another": 1000},
        )
        self.core.handle(0.5, event)

    def token(self, number: int) -> None:
        if self.running:
            name = self.running[number % len(self.running)]
            self.tokens[name] += 1
            self.core.handle(0.5, ev.Tokens(name, 1))

    def end(self, number: int) -> None:
        if self.running:
            name = self.running[number % len(self.running)]
            self.inside.remove(name)
            self.core.handle(0.5, ev.Ended(request_id=name, output_tokens=self.tokens[name]))

    def leave(self, number: int) -> None:
        if self.inside:
            name = self.inside.pop(number % len(self.inside))
            self.core.handle(0.5, ev.Left(name))


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_what_a_heartbeat_misses_is_added_and_what_ended_since_is_taken_away(
    steps: list[tuple[str, int]],
) -> None:
    engine = Engine()
    for kind, number in steps:
        getattr(engine, kind)(number)
    engine.send(0)


def test_a_restart_voids_what_was_known() -> None:
    views: list[int] = []

    def look(request: Request, replicas: Sequence[Replica], ctx: DispatchContext) -> Assign:
        views.append(replicas[0].inflight)
        return Assign(0)

    core = dispatcher(FakePolicy(look))
    for event in (
        beat("a", 9),
        arrival("1"),
        arrival("2"),
        ev.Tokens("1", 1),
        ev.Tokens("2", 1),
        beat("a", 1, incarnation="i2"),
    ):
        core.handle(0.5, event)
    core.handle(0.5, arrival("3"))
    assert views == [0, 1, 0]


def test_requests_wait_while_the_kv_cache_is_full() -> None:
    views: list[tuple[int, int]] = []

    def look(request: Request, replicas: Sequence[Replica], ctx: DispatchContext) -> Assign:
        views.append((replicas[0].running, replicas[0].waiting))
        return Assign(0)

    core = dispatcher(FakePolicy(look))
    core.handle(0.0, beat("a", 1, running=5, waiting=2, max_running=64))
    core.handle(0.0, arrival("1"))
    core.handle(0.0, arrival("2"))
    assert views == [(5, 2), (5, 3)]
