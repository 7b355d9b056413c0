"""Sticky least loaded: a session stays while its replica is not clearly busier than the least loaded one.

Affinity without a limit turns a popular session's replica into a hot spot; the limit is a factor and a margin of
requests, so that small numbers do not move sessions about. Source: ours; bounded loads (see `consistent_hashing`) for sessions
that are remembered instead of hashed.
"""

API = 1

FACTOR = 1.5
MARGIN = 4


def prioritize(request, ctx):
    return request.arrival


def route(request, replicas, ctx):
    count = len(replicas)
    least = min(replicas, key=lambda r: (load(r), (r.index - request.seq) % count))
    for r in replicas:
        if r.id == request.session_replica and load(r) <= FACTOR * load(least) + MARGIN:
            return Assign(r.index)
    return Assign(least.index)


def load(replica):
    return replica.running + replica.waiting
