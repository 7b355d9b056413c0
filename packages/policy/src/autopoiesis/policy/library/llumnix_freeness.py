"""Llumnix's freeness: free cache per running request, counting what waits as if it were already in.

A replica whose queue asks for more than it has comes out negative. Source: B. Sun et al., "Llumnix: Dynamic Scheduling
for Large Language Model Serving", OSDI 2024 (dispatching only; this router does not migrate).
"""

API = 1


def prioritize(request, ctx):
    return request.arrival


def route(request, replicas, ctx):
    count = len(replicas)
    return Assign(max(replicas, key=lambda r: (freeness(r), (request.seq - r.index) % count)).index)


def freeness(replica):
    claimed = replica.kv_used_tokens + replica.queued_prefill_tokens
    return (replica.kv_capacity_tokens - claimed) / max(replica.running, 1)
