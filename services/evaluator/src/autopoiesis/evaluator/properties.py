"""What a dispatch policy must keep in every state, checked on random ones. Standard library and policy only: runs in the jail."""

import json
from random import Random

from autopoiesis.evaluator.states import State, draw
from autopoiesis.policy.api import Assign
from autopoiesis.policy.language import CompiledPolicy, PolicyError, compile_policy

STATES = 400
IDLE_EVERY = 4


def run(payload: bytes) -> bytes:
    """Jail job. Payload: `{"source", "seed"}`; result: the property broken, in words, or the empty string."""
    job = json.loads(payload)
    return (check(compile_policy(job["source"], "dispatch"), seed=job["seed"]) or "").encode()


def check(policy: CompiledPolicy, *, seed: int, states: int = STATES) -> str | None:
    """The first property that does not hold, none if all do.

    It answers with a decision that can be carried out, within its fuel; it answers the same when asked the same; and when
    the fleet is empty and has room, it serves.
    """
    rng = Random(seed)
    for number in range(states):
        state = draw(rng, idle=number % IDLE_EVERY == 0)
        try:
            first, again = (_answers(policy, state.reseeded(number)) for _ in range(2))
        except PolicyError as error:
            return f"{type(error).__name__} in random state {number}: {error}"
        if first != again:
            return f"asked twice in the same state ({number}), it answered {first} and then {again}"
        if state.idle and not isinstance(first[1], Assign):
            return f"answered {first[1]} with every replica idle and room for the request (state {number})"
    return None


def _answers(policy: CompiledPolicy, state: State) -> tuple[float, object]:
    key = policy.prioritize(state.request, state.ctx)
    return key, policy.route(state.request, state.replicas, state.ctx)
