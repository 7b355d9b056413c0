"""What a plan policy must keep in every state, checked on random ones that can be served. Runs in the jail."""

import json
from random import Random

from autopoiesis.policy.api import GpuPool, ModelDemand, PlanContext, Replicas
from autopoiesis.policy.language import CompiledPolicy, PolicyError, compile_policy
from autopoiesis.simulator.intervals.cost import CostModel
from autopoiesis.simulator.intervals.traces import Load, demand, pool, pool_of
from autopoiesis.simulator.models import model
from autopoiesis.simulator.plan_step import ASSUMPTIONS
from autopoiesis.simulator.toolkit import CostToolkit

STATES = 24
MODELS = ("Llama-3.1-8B", "Qwen2.5-7B", "Qwen2.5-14B")
GPUS = ("H100", "A100-80", "L40S")
LEAST = 8
"""GPUs of each type there are at least: every model fits once, whatever its neighbours take."""


def run(payload: bytes) -> bytes:
    """Jail job. Payload: `{"source", "seed"}`; result: the property broken, in words, or the empty string."""
    job = json.loads(payload)
    return (check(compile_policy(job["source"], "plan"), seed=job["seed"]) or "").encode()


def check(policy: CompiledPolicy, *, seed: int, states: int = STATES) -> str | None:
    """The first property that does not hold, none if all do.

    Where it reschedules, its plan can be carried out, within its fuel; and it answers the same when asked the same.
    """
    rng = Random(seed)
    for number in range(states):
        ctx = draw(rng)
        try:
            first, again = (_answers(policy, ctx, number) for _ in range(2))
        except PolicyError as error:
            return f"{type(error).__name__} in random state {number}: {error}"
        if first != again:
            return f"asked twice in the same state ({number}), it answered {first} and then {again}"
    return None


def draw(rng: Random) -> PlanContext:
    """One to three models on one to three GPU types, with a plan in force and a past, or without."""
    names = rng.sample(MODELS, rng.choice([1, 1, 2, 3]))
    types = rng.sample(GPUS, rng.choice([1, 1, 2, 3]))
    steps = [_step(rng, names, types) for _ in range(rng.choice([1, 1, 2, 6]))]
    *past, ctx = steps
    for number, seen in enumerate(steps):
        seen.step, seen.now = number, 5.0 * number
    if past:
        standing = tuple(Replicas(m.index, types[0], 1, 1) for m in ctx.models)
        for seen in steps[1:]:
            seen.plan = standing
        ctx.last, ctx.history = rng.choice(past), tuple(past)
    return ctx


def _step(rng: Random, names: list[str], types: list[str]) -> PlanContext:
    ctx = PlanContext()
    ctx.models = tuple(_demand(rng, index, name) for index, name in enumerate(names))
    ctx.gpus = tuple(_pool(rng, name) for name in types)
    return ctx


def _demand(rng: Random, index: int, name: str) -> ModelDemand:
    load = Load(rng.choice([0, 1, rng.randrange(1, 100)]), rng.randrange(1, 2000), rng.randrange(1, 500))
    found = demand(index, model(name), load)
    found.arrival_rate = rng.uniform(0, 20)
    found.min_replicas = 1
    found.max_replicas = rng.choice([0, 0, rng.randrange(4, 12)])
    return found


def _pool(rng: Random, name: str) -> GpuPool:
    found = pool(pool_of(name), rng.randrange(LEAST, 25))
    found.quota = rng.choice([0, 0, rng.randrange(LEAST, 25)])
    return found


def _answers(policy: CompiledPolicy, ctx: PlanContext, seed: int) -> tuple[Replicas, ...] | None:
    ctx.toolkit = CostToolkit(ctx, CostModel(ASSUMPTIONS), seed=seed)
    return policy.schedule(ctx) if policy.should_reschedule(ctx) else None
