"""Random: every replica is equally likely, whatever its load.

Source: the random policy of load balancers such as Envoy; the yardstick of every other one.
"""

API = 1


def prioritize(request, ctx):
    return request.arrival


def route(request, replicas, ctx):
    return Assign(int(ctx.random() * len(replicas)))
