"""One simulated engine under clients that each send their next request when the last one has ended."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush

from autopoiesis.simulator.engine import EngineConfig, Job
from autopoiesis.simulator.lookahead import engine_of
from autopoiesis.simulator.steptime import Steps


@dataclass(frozen=True, kw_only=True)
class Clients:
    """`concurrency` clients that all start at once; lengths are uniform between `spread` of the stated ones and these."""

    concurrency: int
    prompt_tokens: int
    output_tokens: int
    spread: float = 1.0
    rounds: int = 10
    delay_s: float = 0.01
    """Mean (exponential) time from client to engine: network, front end, tokenizer."""

    def lengths(self, rng: random.Random) -> tuple[int, int]:
        return tuple(
            rng.randint(math.ceil(self.spread * n), n) for n in (self.prompt_tokens, self.output_tokens)
        )  # type: ignore[return-value]


def mean_latencies(
    steps: Steps, config: EngineConfig, clients: Clients, *, async_scheduling: bool, seed: int = 0
) -> tuple[float, float]:
    """Mean TTFT and mean TPOT over all requests, seconds, as the clients see them."""
    rng = random.Random(seed)
    engine = engine_of(steps, replace(config, async_scheduling=async_scheduling))
    total = clients.concurrency * clients.rounds
    lengths = [clients.lengths(rng) for _ in range(total)]
    sent = [0.0] * total
    first: dict[int, float] = {}
    tpot: list[float] = []

    def arrival(now: float) -> float:
        return now + rng.expovariate(1 / clients.delay_s) if clients.delay_s else now

    arriving = [(arrival(0.0), index) for index in range(clients.concurrency)]
    heapify(arriving)
    following = clients.concurrency
    while arriving or engine.next_event < math.inf:
        event = engine.next_event
        if arriving and arriving[0][0] <= event:
            at, index = heappop(arriving)
            engine.submit(at, Job(index, *lengths[index]))
            continue
        for emission in engine.advance(event):
            index = int(emission.id)
            first.setdefault(index, emission.time)
            if not emission.finished:
                continue
            if lengths[index][1] > 1:
                tpot.append((emission.time - first[index]) / (lengths[index][1] - 1))
            if following < total:
                sent[following] = emission.time
                heappush(arriving, (arrival(emission.time), following))
                following += 1
    return sum(first[i] - sent[i] for i in range(total)) / total, sum(tpot) / len(tpot)
