"""Capacity proportional: each replica is drawn with a probability proportional to the tokens its cache can hold.

Weighted random splitting, as load balancers do it for servers of different size; it looks at no load at all.
"""

API = 1


def prioritize(request, ctx):
    return request.arrival


def route(request, replicas, ctx):
    left = ctx.random() * sum(r.kv_capacity_tokens for r in replicas)
    for r in replicas:
        left -= r.kv_capacity_tokens
        if left < 0:
            return Assign(r.index)
    return Assign(len(replicas) - 1)
