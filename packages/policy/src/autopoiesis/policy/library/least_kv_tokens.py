"""Least KV tokens: the replica that holds, and is about to hold, the fewest tokens.

Prompts differ by orders of magnitude, so tokens say more about load than requests do.
Source: the cache-use criterion of the Kubernetes Gateway API inference extension, in tokens.
"""

API = 1


def prioritize(request, ctx):
    return request.arrival


def route(request, replicas, ctx):
    count = len(replicas)
    return Assign(
        min(
            replicas,
            key=lambda r: (r.kv_used_tokens + r.queued_prefill_tokens, (r.index - request.seq) % count),
        ).index
    )
