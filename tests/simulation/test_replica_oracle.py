"""The fast replica and the token-stepping oracle give the same times, with every feature on."""

import math
import random
from dataclasses import dataclass, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autopoiesis.simulator.engine import Emission, EngineConfig, Job
from autopoiesis.simulator.hardware import gpu
from autopoiesis.simulator.lookahead import engine_of
from autopoiesis.simulator.models import model
from autopoiesis.simulator.replica import Replica
from autopoiesis.simulator.stepping import SteppingReplica
from autopoiesis.simulator.steptime import StepTime

STEP_TIMES = [
    StepTime(gpu("H100"), model("Llama-3.1-8B")),
    StepTime(gpu("L4"), model("Qwen3-8B")),
    StepTime(gpu("H200"), model("Qwen3-30B-A3B"), tp=2),
]


COUNTS = (
    "steps", "layer_tokens", "kv_tokens_read", "kv_peak_tokens", "tokens_out", "preemptions", "prefix_queries", "prefix_hits",
)  # fmt: skip


def _told(emission: Emission) -> tuple[int | str, int, bool]:
    return emission.id, emission.tokens, emission.finished


@dataclass(frozen=True)
class World:
    step_time: StepTime
    config: EngineConfig
    submits: list[tuple[float, Job]]
    cancels: list[tuple[float, int]]

    def events(self) -> list[tuple[float, int, object]]:
        submits = [(at, 0, job) for at, job in self.submits]
        return sorted(
            [*submits, *[(at, 1, job_id) for at, job_id in self.cancels]], key=lambda event: event[:2]
        )


@st.composite
def worlds(draw: st.DrawFn) -> World:
    pages = draw(st.sampled_from([1, 2, 4, 16]))
    prefix = draw(st.sampled_from([0, 0, 1, 2, 3])) * pages
    max_running = draw(st.integers(1, 8))
    config = EngineConfig(
        kv_capacity_tokens=pages * draw(st.integers(math.ceil(64 / pages), math.ceil(300 / pages))),
        max_batched_tokens=max_running + draw(st.sampled_from([0, 1, 5, 30, 200])),
        max_running=max_running,
        block_tokens=pages,
        prefix_block_tokens=prefix,
        reserve_full_prompt=draw(st.booleans()),
        async_scheduling=draw(st.booleans()),
    )
    rng = random.Random(draw(st.integers(0, 2**32)))
    gap = draw(st.sampled_from([0.0, 0.003, 0.03, 0.3]))
    priorities = draw(st.sampled_from([1, 3]))
    longest = draw(st.sampled_from([4, 40]))
    moved = draw(st.sampled_from([0.0, 0.0, 0.5]))
    submits, cancels, now = [], [], 0.0
    for number in range(draw(st.integers(1, 25))):
        now += rng.random() * gap * rng.choice([0.1, 1, 3])
        prompt = rng.randint(1, 40)
        output = rng.randint(1, min(longest, 64 - prompt))
        job = Job(number, prompt, output, rng.randrange(priorities), _hashes(rng, prefix, prompt + output))
        if output > 1 and rng.random() < moved:
            job.produced = rng.randint(1, output - 1)
        submits.append((now, job))
        if rng.random() < 0.15:
            cancels.append((now + rng.random() * rng.choice([0.001, 0.1, 1.0]), number))
    return World(draw(st.sampled_from(STEP_TIMES)), config, submits, cancels)


def _hashes(rng: random.Random, unit: int, tokens: int) -> tuple[int, ...]:
    """A path in a small tree: chained hashes, so equal blocks have equal histories."""
    if not unit:
        return ()
    path, node = [], 1
    for _ in range(tokens // unit):
        node = node * 4 + rng.choice([0, 0, 0, 1])
        path.append(node)
    return tuple(path[: rng.choice([len(path), len(path) // 2])])


def _load(engine: Replica | SteppingReplica, now: float) -> tuple[int, ...]:
    if isinstance(engine, SteppingReplica):
        return engine.load()
    return engine.stats(now)[:4]


def _play(engine: Replica | SteppingReplica, world: World) -> list[Emission]:
    out = []
    for at, kind, what in world.events():
        if kind == 0:
            assert isinstance(what, Job)
            engine.submit(at, what)
        else:
            assert isinstance(what, int)
            engine.cancel(at, what)
    while engine.next_event < math.inf:
        out += engine.advance(engine.next_event)
    return sorted(out + engine.advance(math.inf), key=lambda e: (e.id, e.finished))


@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(worlds())
def test_fast_replica_equals_oracle(world: World) -> None:
    fast, slow = engine_of(world.step_time, world.config), SteppingReplica(world.step_time, world.config)
    seen, expected = _play(fast, world), _play(slow, world)
    assert [(e.id, e.tokens, e.finished) for e in seen] == [(e.id, e.tokens, e.finished) for e in expected]
    for ours, theirs in zip(seen, expected, strict=True):
        assert ours.time == pytest.approx(theirs.time, rel=1e-9)
        assert ours.started == pytest.approx(theirs.started, rel=1e-9)
    for name in COUNTS:
        assert getattr(fast, name) == getattr(slow, name), name
    assert fast.busy_s == pytest.approx(slow.busy_s, rel=1e-9)
    assert slow.bound_s <= fast.busy_s * (1 + 1e-9)


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(worlds(), st.integers(0, 2**32))
def test_heartbeats_tell_what_the_oracle_counts(world: World, seed: int) -> None:
    """Also in the middle of runs: at random moments, whatever was reported before."""
    rng = random.Random(seed)
    config = replace(world.config, prefix_block_tokens=0)
    engines = engine_of(world.step_time, config), SteppingReplica(world.step_time, config)
    now = 0.0
    for at, kind, what in [*world.events(), (world.submits[-1][0] + 1.0, 2, None)]:
        for moment in sorted(rng.uniform(now, at) for _ in range(3)):
            emitted = [engine.advance(moment) for engine in engines]
            assert [_told(e) for e in emitted[0]] == [_told(e) for e in emitted[1]]
            ours, theirs = (_load(engine, moment) for engine in engines)
            assert ours == theirs
        now = at
        for engine in engines:
            if kind == 0:
                engine.submit(at, what)  # type: ignore[arg-type]
            elif kind == 1:
                engine.cancel(at, what)  # type: ignore[arg-type]


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(worlds(), st.integers(0, 2**32))
def test_evictions_are_told_when_they_happen(world: World, seed: int) -> None:
    """Also in the middle of runs, whose displaced blocks nobody needs to know before: at random moments, in order."""
    rng = random.Random(seed)
    engines = engine_of(world.step_time, world.config), SteppingReplica(world.step_time, world.config)
    now, told = 0.0, 0
    for at, kind, what in [*world.events(), (world.submits[-1][0] + 1.0, 2, None)]:
        for moment in sorted(rng.uniform(now, at) for _ in range(2)):
            for engine in engines:
                engine.advance(moment)
                engine.reuse(moment)
            fast, slow = engines
            assert fast.evictions == slow.evictions
            assert fast.evicted(told) == slow.evicted(told)
            told = slow.evictions
        now = at
        for engine in engines:
            if kind == 0:
                engine.submit(at, what)  # type: ignore[arg-type]
            elif kind == 1:
                engine.cancel(at, what)  # type: ignore[arg-type]
    for name in ("prefix_hits", "preemptions"):
        assert getattr(fast, name) == getattr(slow, name)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(worlds(), st.floats(0.001, 0.2))
def test_streams_carry_the_same_tokens(world: World, tick: float) -> None:
    whole, stream = (
        engine_of(world.step_time, world.config),
        engine_of(world.step_time, world.config, stream=True),
    )
    expected = {(e.id, e.time) for e in _play(whole, world) if e.finished}
    emitted: list[Emission] = []
    events, now = world.events(), 0.0
    while events or stream.next_event < math.inf:
        now += tick
        while events and events[0][0] <= now:
            at, kind, what = events.pop(0)
            if kind == 0:
                stream.submit(at, what)  # type: ignore[arg-type]
            else:
                stream.cancel(at, what)  # type: ignore[arg-type]
        emitted += stream.advance(now)
    assert {(e.id, e.time) for e in emitted if e.finished} == expected
    assert [e.time for e in emitted] == sorted(e.time for e in emitted)
    lengths = {job.id: job.output_tokens - job.produced for _, job in world.submits}
    for job_id, _ in expected:
        assert sum(e.tokens for e in emitted if e.id == job_id) == lengths[job_id]
