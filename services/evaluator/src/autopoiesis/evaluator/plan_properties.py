"""What a plan policy must keep in every state of its planner, checked on random ones. Runs in the jail."""

from collections.abc import Sequence
from random import Random

import msgspec

from autopoiesis.contracts.messages.fleet import ModelBounds, PlanObserved
from autopoiesis.policy.api import GpuPool, ModelDemand, PlanContext, Replicas
from autopoiesis.policy.language import CompiledPolicy, PolicyError, compile_policy
from autopoiesis.simulator.intervals.cost import CostModel
from autopoiesis.simulator.intervals.traces import Load, demand, pool, pool_of
from autopoiesis.simulator.models import model
from autopoiesis.simulator.plan_step import ASSUMPTIONS
from autopoiesis.simulator.toolkit import CostToolkit

STATES = 24


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """What a planner plans: models, GPUs by type from the fewest to the most that were seen, and its rules."""

    models: tuple[str, ...]
    gpus: dict[str, tuple[int, int]]
    bounds: dict[str, ModelBounds] = {}
    quota: dict[str, int] = {}


class Question(msgspec.Struct, frozen=True, kw_only=True):
    source: str
    seed: int
    place: Place


def place_of(steps: Sequence[PlanObserved]) -> Place:
    """Where the planner of these monitoring steps was at work; a type that was not always there may be gone altogether."""
    types = {name: [step.gpus.get(name, 0) for step in steps] for step in steps for name in step.gpus}
    rules = steps[-1].rules
    return Place(
        models=tuple(dict.fromkeys(name for step in steps for name in step.demand)),
        gpus={name: (min(counts), max(counts)) for name, counts in types.items()},
        bounds=rules.bounds,
        quota=rules.quota,
    )


def run(payload: bytes) -> bytes:
    """Jail job. Payload: a `Question` as JSON; result: the property broken, in words, or the empty string."""
    asked = msgspec.json.decode(payload, type=Question)
    return (check(compile_policy(asked.source, "plan"), asked.place, seed=asked.seed) or "").encode()


def check(policy: CompiledPolicy, place: Place, *, seed: int, states: int = STATES) -> str | None:
    """The first property that does not hold, none if all do.

    Where it reschedules, its plan can be carried out, within its fuel; and it answers the same when asked the same.
    """
    rng = Random(seed)
    for number in range(states):
        ctx = draw(rng, place)
        try:
            first, again = (_answers(policy, ctx, number) for _ in range(2))
        except PolicyError as error:
            return f"{type(error).__name__} in random state {number}: {error}"
        if first != again:
            return f"asked twice in the same state ({number}), it answered {first} and then {again}"
    return None


def draw(rng: Random, place: Place) -> PlanContext:
    """Any load on as many GPUs as were seen, or up to twice as many; with a plan in force and a past, or without."""
    steps = [_step(rng, place) for _ in range(rng.choice([1, 1, 2, 6]))]
    *past, ctx = steps
    for number, seen in enumerate(steps):
        seen.step, seen.now = number, 5.0 * number
    if past:
        standing = tuple(Replicas(m.index, rng.choice(list(place.gpus)), 1, 1) for m in ctx.models)
        for seen in steps[1:]:
            seen.plan = standing
        ctx.last, ctx.history = rng.choice(past), tuple(past)
    return ctx


def _step(rng: Random, place: Place) -> PlanContext:
    ctx = PlanContext()
    ctx.models = tuple(_demand(rng, index, name, place) for index, name in enumerate(place.models))
    ctx.gpus = tuple(
        _pool(rng, name, bounds, place.quota.get(name, 0)) for name, bounds in place.gpus.items()
    )
    return ctx


def _demand(rng: Random, index: int, name: str, place: Place) -> ModelDemand:
    load = Load(rng.choice([0, 1, rng.randrange(1, 100)]), rng.randrange(1, 2000), rng.randrange(1, 500))
    found = demand(index, model(name), load)
    bounds = place.bounds.get(name, ModelBounds())
    found.name, found.arrival_rate = name, rng.uniform(0, 20)
    found.min_replicas, found.max_replicas = bounds.min_replicas, bounds.max_replicas
    return found


def _pool(rng: Random, name: str, seen: tuple[int, int], quota: int) -> GpuPool:
    least, most = seen
    found = pool(pool_of(name), rng.randrange(least, 2 * most + 1))
    found.quota = quota
    return found


def _answers(policy: CompiledPolicy, ctx: PlanContext, seed: int) -> tuple[Replicas, ...] | None:
    ctx.toolkit = CostToolkit(ctx, CostModel(ASSUMPTIONS), seed=seed)
    return policy.schedule(ctx) if policy.should_reschedule(ctx) else None
