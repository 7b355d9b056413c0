"""How many requests per second a fleet can serve, in closed form: what load 1.0 means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, get_args

import numpy as np

from autopoiesis.contracts.messages.fleet import Role
from autopoiesis.simulator.fleet import Fleet, ReplicaSpec
from autopoiesis.simulator.workload.trace import Trace


def capacity(fleet: Fleet, trace: Trace) -> float:
    """Requests per second at saturation for requests like the trace's, no prefix hits, every replica kept full.

    In steady state a replica's steps hold as many sequences as batch, KV cache and token budget allow; each ends once per output
    length, and for each that ends a prompt is computed. Where roles are apart, the slower stage counts. An upper bound for policies, not a promise.
    """
    if not len(trace):
        raise ValueError("capacity of a fleet for a trace without requests")
    stages = dict.fromkeys(get_args(Role), 0.0)
    for spec in fleet.replicas:
        stages[spec.role] += _PER_ROLE[spec.role](spec, trace)
    return stages["mixed"] + min(stages["prefill"], stages["decode"])


def _prefill(spec: ReplicaSpec, trace: Trace) -> float:
    """Prompts per second, in full chunks."""
    chunk = spec.config.max_batched_tokens
    prompts = trace.prompt_tokens[:: max(1, len(trace) // 500)]
    attention = float(np.mean([spec.steps.chunk_attention(int(p), 0) for p in prompts]))
    return 1 / (float(trace.prompt_tokens.mean()) / chunk * spec.steps.fixed(chunk, 1) + attention)


def _decode(spec: ReplicaSpec, trace: Trace) -> float:
    """Ends per second of a full batch without prompts."""
    output = float(trace.output_tokens.mean())
    context = float(np.average(trace.prompt_tokens + trace.output_tokens / 2, weights=trace.output_tokens))
    batch = max(1.0, min(float(spec.config.max_running), spec.config.kv_capacity_tokens / context))
    step = spec.steps.fixed(round(batch), round(batch)) + batch * context * spec.steps.per_kv_token
    return batch / output / step


def _mixed(spec: ReplicaSpec, trace: Trace) -> float:
    prompt, output = float(trace.prompt_tokens.mean()), float(trace.output_tokens.mean())
    # A sequence is met in the batch for as long as it decodes: contexts are weighted by output length.
    context = float(np.average(trace.prompt_tokens + trace.output_tokens / 2, weights=trace.output_tokens))
    attention = float(
        np.mean(
            [spec.steps.chunk_attention(int(p), 0) for p in trace.prompt_tokens[:: max(1, len(trace) // 500)]]
        )
    )
    config = spec.config
    batch = min(
        float(config.max_running),
        config.kv_capacity_tokens / context,
        config.max_batched_tokens / (1 + prompt / output),
    )
    batch = max(1.0, batch)
    tokens = batch * (1 + prompt / output)
    step = spec.steps.fixed(max(1, round(tokens)), max(1, round(batch)))
    step += batch * context * spec.steps.per_kv_token + batch / output * attention
    return batch / output / step


_PER_ROLE: Final[dict[str, Callable[[ReplicaSpec, Trace], float]]] = {
    "mixed": _mixed,
    "prefill": _prefill,
    "decode": _decode,
}
