"""Runs one policy of the corpus inside the jail, and tells how it ended."""

import difflib  # noqa: F401  the verifier's suggestions and tracebacks use these late; a jailed process imports nothing
import json
import traceback  # noqa: F401
import tracemalloc

from autopoiesis.policy.api import DispatchContext, Replica, Request
from autopoiesis.policy.language import PolicyError, compile_policy


def fleet(count: int = 4) -> tuple[Replica, ...]:
    replicas = []
    for index in range(count):
        replica = Replica()
        replica.index, replica.id, replica.gpu = index, 1000 + index, "H100"
        replicas.append(replica)
    return tuple(replicas)


def run(payload: bytes) -> bytes:
    """Compile and call `route` of the source; answers with the error's name, the fuel used and the peak of memory."""
    context = DispatchContext()
    context.random = lambda: 0.5
    used = 0
    tracemalloc.start()
    try:
        policy = compile_policy(payload.decode(), "dispatch")
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        try:
            policy.route(Request(), fleet(), context)
            outcome = "decided"
        finally:
            used = policy.fuel_used
            peak = tracemalloc.get_traced_memory()[1] - before
    except PolicyError as error:
        outcome = type(error).__name__
        peak = tracemalloc.get_traced_memory()[1] if not used else peak
    finally:
        tracemalloc.stop()
    return json.dumps({"outcome": outcome, "fuel": used, "peak_bytes": peak}).encode()
