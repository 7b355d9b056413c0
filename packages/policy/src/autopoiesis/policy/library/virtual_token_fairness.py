"""Virtual token fairness: the tenant that received the fewest tokens goes first.

No tenant can slow the others down by sending more. Requests are held here, where they can still be ordered, until a
replica can start them at once. Source: Y. Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024.
"""

API = 1

TIE = 1e-6


def prioritize(request, ctx):
    return request.tenant_service + TIE * request.arrival


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
