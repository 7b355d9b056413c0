"""What must be the same on every supported Python: hash, decision and fuel of each shipped policy on fixed states.

Standard library only, so that any interpreter can check it: `PYTHONPATH=packages/policy/src python golden.py --check`.
`--write` records what the present interpreter gives.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

from autopoiesis.policy import library
from autopoiesis.policy.api import DispatchContext, Replica, Request
from autopoiesis.policy.language import CompiledPolicy

GOLDEN = Path(__file__).with_name("golden.json")
GPUS = ("H100", "L40S", "L4")
STATES = 20


def state(seed: int, replicas: int = 8) -> tuple[Request, tuple[Replica, ...], DispatchContext]:
    """A request, a fleet and a context with plausible random contents."""
    chance = random.Random(seed)
    request, context = Request(), DispatchContext()
    request.seq, request.session = chance.randrange(10_000), chance.randrange(50)
    request.tenant, request.priority = chance.randrange(5), chance.randrange(3)
    request.prompt_tokens, request.max_tokens = chance.randrange(1, 8000), 1024
    request.expected_output_tokens = chance.uniform(1, 800)
    request.arrival, request.waited = chance.uniform(0, 1000), chance.choice((0.0, chance.uniform(0, 3)))
    request.ttft_slo, request.tpot_slo = chance.choice((0.5, 2.0, 10.0)), chance.choice((0.03, 0.1, 0.5))
    request.tenant_service, request.session_service = chance.uniform(0, 1e5), chance.uniform(0, 1e4)
    fleet = tuple(_replica(chance, index) for index in range(replicas))
    request.session_replica = chance.choice((-1, *(replica.id for replica in fleet)))
    context.now = request.arrival + request.waited
    context.queue_length = chance.randrange(20)
    context.arrival_rate = chance.uniform(0, 50)
    context.random = random.Random(seed).random
    return request, fleet, context


def _replica(chance: random.Random, index: int) -> Replica:
    replica = Replica()
    replica.index, replica.id, replica.node = index, chance.randrange(2**31), chance.randrange(3)
    replica.gpu, replica.tp = chance.choice(GPUS), chance.choice((1, 2, 4))
    replica.running, replica.waiting = chance.randrange(64), chance.choice((0, 0, chance.randrange(90)))
    replica.inflight, replica.max_running = replica.running + replica.waiting, 64
    replica.kv_capacity_tokens = chance.choice((50_000, 400_000))
    replica.kv_used_tokens = chance.randrange(replica.kv_capacity_tokens)
    replica.queued_prefill_tokens = chance.choice((0, chance.randrange(30_000)))
    replica.prefix_hit_tokens = chance.choice((0, 0, chance.randrange(4000)))
    replica.predicted_ttft, replica.predicted_tpot = chance.uniform(0.05, 4), chance.uniform(0.01, 0.2)
    replica.step_time, replica.stats_age = chance.uniform(0.01, 0.1), chance.uniform(0, 1)
    replica.price, replica.uptime = chance.uniform(0.5, 8), chance.uniform(0, 1000)
    return replica


def record(policy: CompiledPolicy) -> dict[str, Any]:
    """Hash, decisions and fuel of one policy over the fixed states."""
    decisions = []
    for seed in range(STATES):
        request, fleet, context = state(seed)
        decision = policy.route(request, fleet, context)
        fuel = policy.fuel_used
        decisions.append([repr(decision), fuel, policy.prioritize(request, context).hex(), policy.fuel_used])
    return {"hash": policy.hash, "decisions": decisions}


def records() -> dict[str, Any]:
    plans = {name: {"hash": library.load(name).hash} for name in library.names("plan", every=True)}
    return {name: record(library.load(name)) for name in library.names("dispatch", every=True)} | plans


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", action="store_true")
    action.add_argument("--check", action="store_true")
    if parser.parse_args().write:
        GOLDEN.write_text(json.dumps(records(), indent=1) + "\n", encoding="utf-8")
    elif records() != json.loads(GOLDEN.read_text(encoding="utf-8")):
        raise SystemExit("differs from golden.json")


if __name__ == "__main__":
    main()
