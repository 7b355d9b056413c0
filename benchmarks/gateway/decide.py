"""What a decision costs as the fleet and the queue grow: the dispatcher alone, in process time."""

from __future__ import annotations

import random
import time

from autopoiesis.contracts.messages.fleet import Heartbeat, StepModel
from autopoiesis.contracts.messages.policy import Activation
from autopoiesis.dispatch import Dispatcher, DispatchSettings
from autopoiesis.dispatch import events as ev
from autopoiesis.policy import library
from autopoiesis.policy.language import CompiledPolicy, compile_policy

REPLICAS = (8, 64, 512)
QUEUE = 10_000
REQUESTS = 2_000
_HOLDS = '"""Holds everything."""\nAPI = 1\n\n\ndef prioritize(request, ctx):\n    return request.waited\n\n\ndef route(request, replicas, ctx):\n    return HOLD\n'
_STEP = StepModel(base_s=0.008, prefill_token_s=2e-5, kv_token_s=1e-8, sequence_s=2e-5, chunk_tokens=2048)


def _beat(number: int, beat: int) -> ev.Beat:
    return ev.Beat(
        Heartbeat(
            node=f"n{number}",
            replica=f"r{number}",
            incarnation="1",
            beat=beat,
            state="ready",
            model="m",
            gpu="H100",
            running=4,
            kv_used_tokens=8_000,
            kv_capacity_tokens=400_000,
            max_running=256,
            step_model=_STEP,
        )
    )


def _never(activation: Activation) -> CompiledPolicy:
    raise ValueError("nothing is activated here")


def _dispatcher(policy: CompiledPolicy, replicas: int) -> Dispatcher:
    settings = DispatchSettings(max_queue=QUEUE + 1, hold_max_s=1e6)
    dispatcher = Dispatcher(settings, router="r", policy=policy, compile=_never)
    for number in range(replicas):
        dispatcher.handle(0.0, _beat(number, 1))
    return dispatcher


def _arrival(number: int, rng: random.Random) -> ev.Arrival:
    blocks = (number % 16, 16 + number % 16, rng.getrandbits(62), rng.getrandbits(62))
    return ev.Arrival(
        request_id=f"q{number}",
        model="m",
        prompt_bytes=4_000,
        max_tokens=256,
        ttft_slo=2.0,
        block_hashes=blocks,
    )


def by_replicas() -> dict[str, float]:
    """Microseconds of dispatcher per request, arrival to end, by number of replicas; least predicted TTFT."""
    found = {}
    for replicas in REPLICAS:
        rng, dispatcher = random.Random(1), _dispatcher(library.load("least_predicted_ttft"), replicas)
        spent = 0.0
        for number in range(REQUESTS):
            arrival, ended = _arrival(number, rng), ev.Ended(request_id=f"q{number}", output_tokens=16)
            began = time.process_time()
            dispatcher.handle(number * 1e-4, arrival)
            dispatcher.handle(number * 1e-4, ended)
            spent += time.process_time() - began
        found[str(replicas)] = spent / REQUESTS * 1e6
    return found


def by_queue() -> dict[str, float]:
    """With 10,000 requests held: microseconds per further arrival, and of the event loop per pass over the queue."""
    rng, dispatcher = random.Random(1), _dispatcher(compile_policy(_HOLDS, "dispatch"), 8)
    for number in range(QUEUE - 1_000):
        dispatcher.handle(0.0, _arrival(number, rng))
    began = time.process_time()
    for number in range(QUEUE - 1_000, QUEUE):
        dispatcher.handle(0.0, _arrival(number, rng))
    arrival = (time.process_time() - began) / 1_000
    longest = spent = 0.0
    passes = 50
    for step in range(1, passes + 1):
        now = step * 0.02
        dispatcher.handle(now, _beat(0, step + 1))
        began = time.process_time()
        dispatcher.handle(max(now, dispatcher.next_wake), ev.Wake())
        took = time.process_time() - began
        spent, longest = spent + took, max(longest, took)
    return {"arrival_us": arrival * 1e6, "pass_us": spent / passes * 1e6, "longest_pass_us": longest * 1e6}
