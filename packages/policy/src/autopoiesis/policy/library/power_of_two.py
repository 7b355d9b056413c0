"""Power of two choices: draw two replicas and take the one with fewer requests.

Source: M. Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", IEEE TPDS 12(10), 2001.
"""

API = 1


def prioritize(request, ctx):
    return request.arrival


def route(request, replicas, ctx):
    count = len(replicas)
    first = int(ctx.random() * count)
    second = int(ctx.random() * (count - 1)) if count > 1 else 0
    if second >= first and count > 1:
        second += 1
    return Assign(second if load(replicas[second]) < load(replicas[first]) else first)


def load(replica):
    return replica.running + replica.waiting
