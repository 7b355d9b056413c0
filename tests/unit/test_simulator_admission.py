"""The admission in a straight line does what the general one does, to the last bit."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopoiesis.simulator.engine import Emission, EngineConfig, Job
from autopoiesis.simulator.hardware import gpu
from autopoiesis.simulator.models import model
from autopoiesis.simulator.replica import Replica
from autopoiesis.simulator.steptime import StepTime

STEPS = StepTime(gpu("L40S"), model("Llama-3.2-1B"))
COUNTS = (
    "steps", "busy_s", "layer_tokens", "kv_tokens_read", "kv_peak_tokens", "tokens_out", "preemptions", "gaps",
)  # fmt: skip


class General(Replica):
    """Goes the long way each time."""

    __slots__ = ()

    def _take_one(self, now: float, decoding: int) -> None:
        return None


def lived(engine: Replica, seed: int) -> list[object]:
    """What comes out of an engine under jobs and cancels at random, and what it counts."""
    rng, now = random.Random(seed), 0.0
    seen: list[object] = []
    out: list[Emission] = []
    for name in range(30):
        now += rng.expovariate(rng.choice([20.0, 200.0]))
        out += engine.advance(now)
        engine.submit(now, Job(name, rng.randint(1, 90), rng.randint(1, 20), rng.randint(0, 1)))
        if rng.random() < 0.1:
            seen.append(engine.cancel(now, rng.randint(0, name)))
        seen += [engine.next_event, engine.stats(now)]
    out += engine.advance(1e9)
    return [*seen, *out, *(getattr(engine, name) for name in COUNTS)]


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 6), st.sampled_from([8, 40, 400]), st.sampled_from([1, 16]))
def test_one_that_waits_is_admitted_as_any_other(seed: int, running: int, budget: int, pages: int) -> None:
    config = EngineConfig(
        kv_capacity_tokens=256, max_batched_tokens=budget, max_running=running, block_tokens=pages
    )
    assert lived(Replica(STEPS, config), seed) == lived(General(STEPS, config), seed)


def test_the_straight_line_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Replica, "_mix", None)
    engine = Replica(STEPS, EngineConfig(kv_capacity_tokens=10_000))
    engine.submit(0.0, Job("a", 100, 3))
    assert [emission.tokens for emission in engine.advance(1e9)] == [1, 2]
