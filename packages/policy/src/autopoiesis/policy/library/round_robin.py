"""Round robin: requests go to the replicas in turn.

Stateless: the turn is the request's arrival number. A retry takes the next turn.
Source: the default of NGINX and of most other load balancers.
"""

API = 1


def prioritize(request, ctx):
    return request.arrival


def route(request, replicas, ctx):
    return Assign((request.seq + request.attempts) % len(replicas))
