"""Random: every replica is equally likely, whatever its load."""

API = 1


def prioritize(request, ctx):
    return request.arrival


def route(request, replicas, ctx):
    return Assign(int(ctx.random() * len(replicas)))
