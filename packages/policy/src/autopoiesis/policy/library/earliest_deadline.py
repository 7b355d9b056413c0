"""Earliest deadline first: by the moment the first token, or the whole answer, is due.

Requests without an SLO are due after a minute. They are held here, where they can still be ordered, until a replica can
start them at once. Source: C. Liu and J. Layland, "Scheduling Algorithms for Multiprogramming in a Hard-Real-Time
Environment", JACM 20(1), 1973.
"""

API = 1

PATIENCE = 60.0


def prioritize(request, ctx):
    return min(request.arrival + min(request.ttft_slo, PATIENCE), request.deadline)


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
