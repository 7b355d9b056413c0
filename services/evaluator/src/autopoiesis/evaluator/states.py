"""Random but possible states of a fleet and a request, for checks that need no trace. Standard library only: runs in the jail."""

import math
from dataclasses import dataclass
from random import Random

from autopoiesis.policy.api import DispatchContext, Replica, Request

GPUS = ("H100", "A100", "L40S", "L4", "unknown")


@dataclass(frozen=True, slots=True)
class State:
    """What one decision sees."""

    request: Request
    replicas: tuple[Replica, ...]
    ctx: DispatchContext
    idle: bool
    """Every replica is empty and has room for the request, which has no deadline: nothing speaks against serving it now."""

    def reseeded(self, seed: int) -> "State":
        """The same state with the random numbers from their beginning."""
        self.ctx.random = Random(seed).random
        return self


def draw(rng: Random, *, idle: bool) -> State:
    """One state; fields that can be extreme often are."""
    now = rng.choice([0.0, rng.uniform(0, 1e6)])
    request = _request(rng, now, idle=idle)
    replicas = tuple(
        _replica(rng, index, request, idle=idle) for index in range(rng.choice([1, 2, 3, 6, 32]))
    )
    if idle:
        request.session_replica = -1
    elif rng.random() < 0.3:
        request.session_replica = rng.choice(replicas).id
    return State(request, replicas, _context(rng, now, idle=idle), idle)


def _request(rng: Random, now: float, *, idle: bool) -> Request:
    request = Request()
    request.seq = rng.randrange(1, 10**9)
    request.prompt_tokens = rng.choice([1, rng.randrange(1, 4000), rng.randrange(1, 100_000)])
    request.max_tokens = rng.choice([1, 4096, rng.randrange(1, 32_768)])
    request.expected_output_tokens = rng.uniform(1.0, float(request.max_tokens))
    request.waited = 0.0 if idle else rng.choice([0.0, rng.uniform(0, 60)])
    request.arrival = now - request.waited
    request.priority = rng.randrange(4)
    request.tenant = rng.randrange(1, 50)
    request.session = rng.choice([0, rng.randrange(1, 1000)])
    request.model = 1
    request.ttft_slo = math.inf if idle else rng.choice([math.inf, rng.uniform(0.05, 10)])
    request.tpot_slo = math.inf if idle else rng.choice([math.inf, rng.uniform(0.005, 0.5)])
    request.deadline = math.inf if idle else rng.choice([math.inf, now + rng.uniform(-1, 120)])
    request.tenant_service = rng.choice([0.0, rng.uniform(0, 1e7)])
    request.session_service = rng.choice([0.0, rng.uniform(0, 1e6)])
    request.attempts = rng.choice([0, 0, 0, 1])
    return request


def _replica(rng: Random, index: int, request: Request, *, idle: bool) -> Replica:
    replica = Replica()
    replica.index = index
    replica.id = rng.randrange(2**31)
    replica.node, replica.zone = rng.randrange(1, 20), rng.randrange(1, 4)
    replica.gpu, replica.tp = rng.choice(GPUS), rng.choice([1, 1, 2, 4, 8])
    replica.uptime = rng.uniform(0, 1e6)
    replica.max_running = rng.choice([8, 64, 256])
    replica.kv_capacity_tokens = rng.randrange(20_000, 2_000_000)
    if idle:
        replica.kv_capacity_tokens = 10 * (request.prompt_tokens + request.max_tokens)
    else:
        replica.running = rng.randrange(replica.max_running + 1)
        replica.waiting = rng.choice([0, 0, rng.randrange(1, 2000)])
        replica.queued_prefill_tokens = rng.choice([0, rng.randrange(1, 10**6)])
        replica.kv_used_tokens = rng.choice(
            [0, replica.kv_capacity_tokens, rng.randrange(replica.kv_capacity_tokens)]
        )
        replica.inflight = rng.randrange(replica.running + replica.waiting + 1)
        replica.prefix_hit_tokens = rng.choice([0, rng.randrange(request.prompt_tokens + 1)])
        replica.fault_rate = rng.choice([0.0, 0.0, 1.0, rng.random()])
        replica.preemptible = rng.random() < 0.2
        replica.notice = rng.choice([math.inf, math.inf, rng.uniform(0, 120)])
    replica.predicted_ttft = rng.uniform(0.001, 0.5 if idle else 100)
    replica.predicted_tpot = rng.uniform(0.002, 0.05 if idle else 1)
    replica.step_time = rng.choice([0.0, rng.uniform(0.002, 0.5)])
    replica.stats_age = rng.uniform(0, 1)
    replica.price = rng.choice([0.0, rng.uniform(0.5, 100)])
    return replica


def _context(rng: Random, now: float, *, idle: bool) -> DispatchContext:
    ctx = DispatchContext()
    ctx.now = now
    ctx.queue_length = 1 if idle else rng.choice([1, rng.randrange(1, 10_000)])
    ctx.queued_prompt_tokens = ctx.queue_length * rng.randrange(1, 4000)
    ctx.arrival_rate = rng.choice([0.0, rng.uniform(0, 1000)])
    ctx.arrival_rate_60 = rng.choice([0.0, rng.uniform(0, 1000)])
    ctx.mean_prompt_tokens = ctx.mean_prompt_tokens_60 = rng.choice([0.0, rng.uniform(1, 10_000)])
    ctx.mean_output_tokens = ctx.mean_output_tokens_60 = rng.choice([0.0, rng.uniform(1, 4000)])
    ctx.attainment = 1.0 if idle else rng.choice([0.0, 1.0, rng.random()])
    ctx.routers = rng.choice([1, 1, 4])
    return ctx
