"""Preble's exploitation and exploration: follow a prefix that covers more than half the prompt, else the lowest cost.

Cost, in tokens: what waits to be prefilled there, what this prompt adds, and what it would evict. A replica that is
much busier than the cheapest one is not exploited. Source: V. Srivatsa, Z. He, R. Abhyankar, D. Li and Y. Zhang,
"Preble: Efficient Distributed Prompt Scheduling for LLM Serving", ICLR 2025.
"""

API = 1

IMBALANCE = 2.0
MARGIN = 4


def prioritize(request, ctx):
    return request.arrival


def route(request, replicas, ctx):
    cheapest = min(replicas, key=lambda r: cost(request, r))
    longest = max(r.prefix_hit_tokens for r in replicas)
    if longest > request.prompt_tokens - longest:
        holders = [r for r in replicas if r.prefix_hit_tokens == longest]
        best = min(holders, key=load)
        if load(best) <= IMBALANCE * load(cheapest) + MARGIN:
            return Assign(best.index)
    return Assign(cheapest.index)


def load(replica):
    return replica.running + replica.waiting


def cost(request, replica):
    missing = request.prompt_tokens - replica.prefix_hit_tokens
    evicted = max(0, replica.kv_used_tokens + missing - replica.kv_capacity_tokens)
    return replica.queued_prefill_tokens + missing + evicted
