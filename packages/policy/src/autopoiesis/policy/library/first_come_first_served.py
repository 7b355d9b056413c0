"""First come, first served: by arrival, whatever the request asks for.

Requests are held here, where they can still be ordered, until a replica can start them at once. Source: the default
order of vLLM's own queue (`--scheduling-policy fcfs`); the yardstick of every other order.
"""

API = 1


def prioritize(request, ctx):
    return request.arrival


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
