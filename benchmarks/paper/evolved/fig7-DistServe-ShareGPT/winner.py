"""Greedy by bisection at every step: the heaviest model first takes the kind of replica that serves most requests per GPU.

A rival of ours under measured time: a deadline is bisected until greedy filling just meets it; no regard to what moving costs.
"""

API = 1

ROUNDS = 18


def should_reschedule(ctx):
    if ctx.plan is None or ctx.last is None:
        return True
    if len(ctx.gpus) != len(ctx.last.gpus) or len(ctx.models) != len(ctx.last.models):
        return True
    if any(a.type != b.type or a.count != b.count or a.quota != b.quota for a, b in zip(ctx.gpus, ctx.last.gpus)):
        return True
    if ctx.toolkit.makespan(ctx.plan) == math.inf:
        return True
    if len(ctx.plan) == 1:
        return False
    recent = ctx.history[-2:]
    return all(shifted(seen.models, ctx.last.models) for seen in recent) and shifted(ctx.models, ctx.last.models)


def shifted(now, then):
    """Whether the work per request of some model is half as much again as it was, or less than two thirds."""
    return any(not 0.67 < work(a) / work(b) < 1.5 for a, b in zip(now, then))


def work(model):
    return 1.0 + model.concurrency * (model.prompt_tokens + 3.0 * model.output_tokens)


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
