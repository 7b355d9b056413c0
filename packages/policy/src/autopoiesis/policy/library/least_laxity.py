"""Least laxity first: by the moment at which a request must have begun to be done in time.

Laxity is the time until it is due less the time it takes, here its predicted tokens at nominal speeds. All laxities
shrink alike as time passes, so the clock is left out of the order. Requests are held here, where they can still be
ordered, until a replica can start them at once. Source: A. Mok, "Fundamental Design Problems of Distributed Systems for
the Hard-Real-Time Environment", PhD thesis, MIT, 1983.
"""

API = 1

PATIENCE = 60.0
SLOWEST = 0.2
PREFILL = 10_000.0
DECODE = 0.03


def prioritize(request, ctx):
    return due(request) - request.prompt_tokens / PREFILL - request.expected_output_tokens * DECODE


def due(request):
    answer = request.expected_output_tokens * min(request.tpot_slo, SLOWEST)
    return min(request.arrival + min(request.ttft_slo, PATIENCE) + answer, request.deadline)


def route(request, replicas, ctx):
    ready = [r for r in replicas if takes(request, r)]
    if not ready:
        return HOLD
    return Assign(min(ready, key=lambda r: (r.running, r.predicted_ttft)).index)


def takes(request, replica):
    needed = request.prompt_tokens - replica.prefix_hit_tokens + request.expected_output_tokens
    room = replica.kv_used_tokens + needed <= replica.kv_capacity_tokens
    empty = replica.running + replica.waiting == 0
    return empty or (room and replica.waiting == 0 and replica.running < replica.max_running)
