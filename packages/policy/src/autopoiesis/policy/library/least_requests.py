"""Least requests: the replica with the fewest running and waiting sequences.

Equal ones take turns, so that an idle fleet does not fill its first replica.
Source: `least_conn` of NGINX, with what an engine runs and queues in place of connections.
"""

API = 1


def prioritize(request, ctx):
    return request.arrival


def route(request, replicas, ctx):
    count = len(replicas)
    return Assign(min(replicas, key=lambda r: (r.running + r.waiting, (r.index - request.seq) % count)).index)
