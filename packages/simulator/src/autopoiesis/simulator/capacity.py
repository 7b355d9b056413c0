"""How many requests per second a fleet can serve, in closed form: what load 1.0 means."""

from __future__ import annotations

import numpy as np

from autopoiesis.simulator.fleet import Fleet, ReplicaSpec
from autopoiesis.simulator.workload.trace import Trace


def capacity(fleet: Fleet, trace: Trace) -> float:
    """Requests per second at saturation for requests like the trace's, no prefix hits, every replica kept full.

    In steady state a replica's steps hold as many sequences as batch, KV cache and token budget allow; each ends once per output
    length, and for each that ends a prompt is computed. An upper bound for policies, not a promise.
    """
    if not len(trace):
        raise ValueError("capacity of a fleet for a trace without requests")
    return sum(_replica(spec, trace) for spec in fleet.replicas)


def _replica(spec: ReplicaSpec, trace: Trace) -> float:
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
