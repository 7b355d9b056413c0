"""What a policy does in a fixed set of states: its behaviour as a hash, and whether it breaks. Runs in the jail.

Two texts with the same hash decided alike in every state, so one replay serves both. Standard library and policy only.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from random import Random

from autopoiesis.policy.api import Assign, DispatchContext, Replica, Request, Workflow
from autopoiesis.policy.language import CompiledPolicy, PolicyError, compile_policy

STATES = 150
QUEUE = 12
"""Requests that are put in order."""
FLEETS = (1, 2, 3, 6, 6, 16)
IDLE_EVERY = 5
"""Each such state is an empty fleet, in which a policy must serve."""
WORKFLOW_EVERY, APART_EVERY = 3, 4
"""In each such state the request is a workflow's; prefill and decode are apart."""


def run(payload: bytes) -> bytes:
    """Jail job: `{"source": text, "workflows": bool, "apart": bool}` to `{"behaviour": hash, "broken": what went wrong, or empty}`.

    `workflows` and `apart` say what the traffic has and the fleet is: where neither is so, policies that differ there alone are alike.
    """
    asked = json.loads(payload)
    policy = compile_policy(asked["source"], "dispatch")
    try:
        behaviour = behaviour_of(policy, workflows=asked["workflows"], apart=asked["apart"])
        broken = ""
    except (PolicyError, UnservedError) as error:
        behaviour, broken = "", f"{type(error).__name__}: {error}"
    return json.dumps({"behaviour": behaviour, "broken": broken}).encode()


class UnservedError(Exception):
    """Held or rejected although every replica was idle."""


def behaviour_of(policy: CompiledPolicy, *, workflows: bool = False, apart: bool = False) -> str:
    """Hash of all decisions, also for requests of workflows and where prefill and decode are apart. Raises PolicyError, UnservedError."""
    rng = Random(20_260_101)
    decisions: list[object] = []
    for number in range(STATES):
        idle = number % IDLE_EVERY == 0
        request, ctx = _request(rng, idle=idle), _context(rng)
        replicas = [_replica(rng, index, request, idle=idle) for index in range(rng.choice(FLEETS))]
        if workflows and number % WORKFLOW_EVERY == 1:
            request.workflow = _workflow(rng)
        parted = apart and number % APART_EVERY == 2 and len(replicas) > 1
        if parted:
            _part(rng, replicas)
        ctx.random = Random(number).random
        decision = policy.route(request, replicas, ctx)
        if idle and not isinstance(decision, Assign):
            raise UnservedError(
                f"answered {decision} with every replica idle and room for the request; assign it then, even if it is late"
            )
        decisions.append(repr(decision))
        if parted and "place_decode" in policy.functions:
            decisions.append(repr(policy.place_decode(request, replicas, ctx)))
    queue = [_request(rng, idle=False) for _ in range(QUEUE)]
    decisions.append(_order(policy, queue, _context(rng)))
    if workflows:
        for request in queue:
            request.workflow = _workflow(rng)
        decisions.append(_order(policy, queue, _context(rng)))
    return hashlib.sha256(json.dumps(decisions).encode()).hexdigest()


def _order(policy: CompiledPolicy, queue: Sequence[Request], ctx: DispatchContext) -> list[int]:
    """Positions in the order of service: only the order matters, not the keys."""
    keys = []
    for number, request in enumerate(queue):
        ctx.random = Random(number).random
        keys.append((policy.prioritize(request, ctx), number))
    return [number for _, number in sorted(keys)]


def _request(rng: Random, *, idle: bool) -> Request:
    request = Request()
    request.seq = rng.randrange(1, 100_000)
    request.prompt_tokens = round(rng.lognormvariate(6.5, 1.0)) + 1
    request.max_tokens = 4096
    request.expected_output_tokens = rng.lognormvariate(5.0, 0.8)
    request.waited = 0.0 if idle else rng.choice([0.0, rng.expovariate(1.0), rng.uniform(0, 20)])
    request.arrival = 1000.0 - request.waited
    request.priority = rng.choice([0, 0, 1, 2])
    request.tenant, request.session = rng.randrange(1, 6), rng.choice([0, rng.randrange(1, 9)])
    request.ttft_slo = rng.choice([0.5, 1.0, 2.0, 8.0, math.inf])
    request.tpot_slo = rng.choice([0.03, 0.06, 0.15, math.inf])
    request.tenant_service, request.session_service = rng.uniform(0, 1e5), rng.uniform(0, 1e4)
    request.attempts = rng.choice([0, 0, 0, 1])
    return request


def _replica(rng: Random, index: int, request: Request, *, idle: bool) -> Replica:
    replica = Replica()
    replica.index, replica.id, replica.node = index, rng.randrange(2**31), index + 1
    replica.gpu = rng.choice(["H100", "L40S"])
    speed = 1.0 if replica.gpu == "H100" else 3.0
    replica.max_running, replica.kv_capacity_tokens = 256, rng.randrange(40_000, 500_000)
    replica.uptime, replica.price = rng.uniform(10, 1e5), 4.0 / speed
    if not idle:
        replica.running = rng.randrange(replica.max_running + 1)
        replica.waiting = rng.choice([0, 0, rng.randrange(1, 60)])
        replica.inflight = rng.randrange(replica.running + replica.waiting + 1)
        replica.queued_prefill_tokens = rng.choice([0, rng.randrange(1, 40_000)])
        replica.kv_used_tokens = rng.randrange(replica.kv_capacity_tokens + 1)
        replica.prefix_hit_tokens = rng.choice([0, 0, rng.randrange(request.prompt_tokens + 1)])
        replica.fault_rate = rng.choice([0.0, 0.0, 0.0, rng.random()])
        replica.stats_age = rng.uniform(0, 0.5)
        if replica.prefix_hit_tokens and rng.random() < 0.5:
            request.session_replica = replica.id
    replica.step_time = speed * (0.008 + 0.0001 * replica.running)
    replica.predicted_ttft = speed * (0.02 + (replica.queued_prefill_tokens + request.prompt_tokens) / 40_000)
    replica.predicted_tpot = replica.step_time * rng.uniform(0.9, 1.3)
    return replica


def _workflow(rng: Random) -> Workflow:
    workflow = Workflow()
    workflow.age, workflow.horizon = rng.expovariate(0.1), rng.uniform(1, 60)
    workflow.remaining_path = rng.uniform(0.1, 1) * workflow.horizon
    workflow.projected_ratio = (workflow.age + workflow.remaining_path) / workflow.horizon
    workflow.attained = rng.uniform(0, 1) * workflow.age
    workflow.calls_done, workflow.calls_open = rng.randrange(20), rng.randrange(1, 4)
    return workflow


def _part(rng: Random, replicas: Sequence[Replica]) -> None:
    """The first half computes prompts, the rest decodes."""
    for number, replica in enumerate(replicas):
        replica.role = "prefill" if 2 * number < len(replicas) else "decode"
        replica.transfer_time = 0.0 if replica.role == "prefill" else rng.uniform(0.001, 0.2)


def _context(rng: Random) -> DispatchContext:
    ctx = DispatchContext()
    ctx.now = 1000.0
    ctx.queue_length = rng.choice([1, rng.randrange(1, 200)])
    ctx.queued_prompt_tokens = ctx.queue_length * 700
    ctx.arrival_rate, ctx.arrival_rate_60 = rng.uniform(0, 40), rng.uniform(0, 40)
    ctx.mean_prompt_tokens = ctx.mean_prompt_tokens_60 = rng.uniform(100, 3000)
    ctx.mean_output_tokens = ctx.mean_output_tokens_60 = rng.uniform(50, 600)
    ctx.attainment = rng.uniform(0.3, 1.0)
    return ctx
