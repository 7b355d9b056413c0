"""Capacity proportional: each replica is drawn with a probability proportional to the tokens its cache can hold.

Weighted random splitting; it looks at no load at all. Source: `random` with weights of NGINX, which is meant for servers of
different size.
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
