"""Greedy by bisection at every step: the heaviest model first takes the kind of replica that serves most requests per GPU.

A rival of ours under measured time: a deadline is bisected until greedy filling just meets it; no regard to what moving costs.
"""

API = 1

ROUNDS = 18


def should_reschedule(ctx):
    return True


def schedule(ctx):
    low, high, best = 0.0, 1.0, []
    while not best and high < 1e7:
        low, high = high, high * 4
        best = filled(ctx, high)
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        plan = filled(ctx, middle)
        if plan:
            best, high = plan, middle
        else:
            low = middle
    return best


def filled(ctx, deadline):
    """A plan that meets the deadline, empty if greedy filling finds none."""
    free = {pool.type: min(pool.count, pool.quota or pool.count) for pool in ctx.gpus}
    plan = []
    for model in sorted(ctx.models, key=lambda m: -m.weight_bytes):
        left = model.concurrency
        for per_gpu, gpu, tp, batch in offers(ctx, model, deadline):
            while left > 0 and free[gpu] >= tp:
                take = min(batch, left)
                count = min(free[gpu] // tp, max(1, left // take))
                plan.append(Replicas(model.index, gpu, tp, count, take))
                free[gpu] -= tp * count
                left -= take * count
        if left > 0:
            return []
    return plan


def offers(ctx, model, deadline):
    """Kinds of replicas with the batch that each serves in time, most requests per GPU first."""
    found = []
    for pool in ctx.gpus:
        for tp in ctx.toolkit.degrees(model, pool):
            batch = largest(ctx, model, pool, tp, deadline)
            if batch and pool.count >= tp:
                found.append((batch / tp, pool.type, tp, batch))
    return sorted(found, key=lambda offer: -offer[0])


def largest(ctx, model, pool, tp, deadline):
    low, high = 0, model.concurrency
    while low < high:
        middle = (low + high + 1) // 2
        if ctx.toolkit.latency(model, pool, tp, middle) <= deadline:
            low = middle
        else:
            high = middle - 1
    return low
