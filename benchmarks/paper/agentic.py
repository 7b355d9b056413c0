"""Table 4 (Section 8.3): two disjoint slices of 64 agentic workflows on separate prefill and decode instances.

The paper takes ShareGPT; its slices are not given. Here they are the first coding-agent sessions of callanjfox/kv-cache-tester (Apache-2.0)
with at least `ROUNDS` calls, the first of those calls, prompts and answers `SCALE` times shorter, else they would not fit the model. Eight
prefill and eight decode instances, two A100, three H100 and three H200 each, as the same authors' HexAGenT has them
(arXiv 2605.16637); an instance is one GPU with Llama-3.1-8B, as §8.3 names neither.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from autopoiesis.simulator.intervals import PlanTrace, Step
from autopoiesis.simulator.intervals.paper import INFINIBAND_BYTES_S
from autopoiesis.simulator.intervals.traces import Load, Pool, pool_of
from autopoiesis.simulator.models import MODELS

SESSIONS = "agentic_coding_sessions.jsonl.gz"
WORKFLOWS, ROUNDS, SCALE = 64, 4, 16
GPUS = ("A100-80",) * 2 + ("H100",) * 3 + ("H200",) * 3
MODEL = MODELS["Llama-3.1-8B"]

RULES = tuple(
    """\
this trace is AGENTIC: what is planned is who serves which call, not a fleet
a monitoring step is a round; each entry of ctx.models is a workflow, with concurrency 1 if it has a call in this round, else 0
each entry of ctx.gpus is one instance for many calls; types that start with 'prefill' read prompts, those with 'decode' write answers
a plan has two entries for each call: Replicas(model.index, instance, 1, 1, role='prefill', share=place) and the same with role='decode'
`share` is the call's place in that instance's queue, lowest first; `count` of an instance is no bound here
a prefill instance reads one prompt at a time; what it read of the same workflow in the round before (see ctx.plan) is cached there, so \
that only the rest of the prompt takes time; toolkit.prefill_time(model, gpu, 1, 1) knows that
a decode instance runs all its calls together; the more there are, the longer each step takes, and their whole contexts have to fit in \
its memory; toolkit.decode_time(model, gpu, 1, batch) is the time of `batch` such calls alone
t_serve of a round is when its last call has ended; nothing is ever reconfigured (t_reconfig is 0); where should_reschedule returns \
False every workflow stays where it was
toolkit.makespan(plan) simulates the round in a few milliseconds, toolkit.serve_time(model, plan) says when one call would end; \
best_plan and reconfigure_time are of no use here""".splitlines()
)
"""What a proposer has to know beyond the interface."""


def traces(folder: Path) -> list[PlanTrace]:
    """Trace 1 and trace 2. Raises OSError where the sessions are not there."""
    with gzip.open(folder / SESSIONS, "rt") as file:
        sessions = [calls for line in file if len(calls := _calls(json.loads(line))) >= ROUNDS]
    return [
        _trace(f"table4/trace{number + 1}", sessions[number * WORKFLOWS : (number + 1) * WORKFLOWS])
        for number in range(2)
    ]


def _calls(session: dict[str, Any]) -> list[Load]:
    """The session's own calls, without those of its subagents."""
    own = [call for call in session["requests"] if call["type"] == "n"]
    return [Load(1, max(1, call["in"] // SCALE), max(1, call["out"] // SCALE)) for call in own[:ROUNDS]]


def _trace(name: str, sessions: list[list[Load]]) -> PlanTrace:
    models = tuple(replace(MODEL, name=f"w{number:02d}") for number in range(len(sessions)))
    pools = _instances()
    steps = tuple(
        Step(
            {model.name: calls[number] for model, calls in zip(models, sessions, strict=True)},
            {pool.type: 2 * len(models) for pool in pools},
        )
        for number in range(ROUNDS)
    )
    return PlanTrace(name, models, pools, steps, rounds=True)


def _instances() -> tuple[Pool, ...]:
    return tuple(
        pool_of(gpu, type=f"{role}-{number}/{gpu}", per_node=1, network_bandwidth=INFINIBAND_BYTES_S)
        for role in ("prefill", "decode")
        for number, gpu in enumerate(GPUS)
    )
