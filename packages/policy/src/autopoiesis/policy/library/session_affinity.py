"""Session affinity: a session stays with the replica that served it last, whatever the load.

Everything the session cached is there. New sessions go where the fewest requests are.
Source: session persistence of load balancers, as `sessionAffinity` of Kubernetes services.
"""

API = 1


def prioritize(request, ctx):
    return request.arrival


def route(request, replicas, ctx):
    for r in replicas:
        if r.id == request.session_replica:
            return Assign(r.index)
    count = len(replicas)
    return Assign(min(replicas, key=lambda r: (r.running + r.waiting, (r.index - request.seq) % count)).index)
