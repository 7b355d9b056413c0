"""SGLang's cache-aware routing: follow the prefix while the fleet is balanced, else the shortest queue.

Balanced: the busiest replica has at most 64 requests more than the idlest, or at most 1.5 times as many. A prefix is
followed if at least 0.3 of the prompt is cached; otherwise the replica with the emptiest cache takes the request.
Source: the defaults that the SGLang router family documents for `cache_aware`.
"""

API = 1

CACHE_THRESHOLD = 0.3
BALANCE_ABSOLUTE = 64
BALANCE_RELATIVE = 1.5


def prioritize(request, ctx):
    return request.arrival


def route(request, replicas, ctx):
    busiest = max(load(r) for r in replicas)
    idlest = min(load(r) for r in replicas)
    if busiest - idlest > BALANCE_ABSOLUTE and busiest > BALANCE_RELATIVE * idlest:
        return Assign(min(replicas, key=load).index)
    matched = max(replicas, key=lambda r: r.prefix_hit_tokens)
    if matched.prefix_hit_tokens > CACHE_THRESHOLD * request.prompt_tokens:
        return Assign(matched.index)
    count = len(replicas)
    return Assign(min(replicas, key=lambda r: (filled(r), (r.index - request.seq) % count)).index)


def load(replica):
    return replica.running + replica.waiting


def filled(replica):
    return replica.kv_used_tokens / max(replica.kv_capacity_tokens, 1)
