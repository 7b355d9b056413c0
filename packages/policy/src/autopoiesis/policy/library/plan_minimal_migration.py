"""Whenever GPUs come or go, only what must move: replicas that keep their GPUs stay.

The "minimal migration" of the paper's elastic case (Autopoiesis, arXiv 2604.07144, Section 8.2): cheap moves, plans
that age. New GPUs stay unused until a model has lost its last replica.
"""

API = 1

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


def should_reschedule(ctx):
    return ctx.plan is None or changed(ctx)


def schedule(ctx):
    if ctx.plan is None:
        return ctx.toolkit.best_plan(kinds(ctx))
    kept, free = survivors(ctx)
    for model in ctx.models:
        if model.concurrency and not any(entry.model == model.index for entry in kept):
            restore(ctx, model, kept, free)
    return kept if ctx.toolkit.makespan(kept) < math.inf else ctx.toolkit.best_plan(kinds(ctx))


def survivors(ctx):
    """What of the plan in force still has GPUs, and the GPUs that are then free, by type.

    Where GPUs are short, the lightest model that has another replica gives one up: it is the quickest to move.
    """
    counts = [entry.count for entry in ctx.plan]
    free = {}
    for pool in ctx.gpus:
        there = [i for i, entry in enumerate(ctx.plan) if entry.gpu == pool.type]
        room = min(pool.count, pool.quota or pool.count)
        used = sum(ctx.plan[i].tp * counts[i] for i in there)
        while used > room:
            there = [i for i in there if counts[i]]
            gives = min(
                there, key=lambda i: (is_last(ctx, counts, i), ctx.models[ctx.plan[i].model].weight_bytes)
            )
            counts[gives] -= 1
            used -= ctx.plan[gives].tp
        free[pool.type] = room - used
    kept = [
        Replicas(entry.model, entry.gpu, entry.tp, count, entry.batch, entry.role, entry.share)
        for entry, count in zip(ctx.plan, counts)
        if count and entry.gpu in free
    ]
    return kept, free


def is_last(ctx, counts, i):
    """Whether entry `i` holds the last replica of its model."""
    own = [count for entry, count in zip(ctx.plan, counts) if entry.model == ctx.plan[i].model]
    return sum(own) <= 1


def restore(ctx, model, kept, free):
    """One replica for a model that has lost its last: the smallest on free GPUs that is not what all wait for, or the fastest."""
    placed = [entry.model for entry in kept if entry.count]
    slowest = max(
        [ctx.toolkit.serve_time(other, kept) for other in ctx.models if other.index in placed], default=0.0
    )
    best, least = None, (math.inf, 0)
    for pool in ctx.gpus:
        for tp in ctx.toolkit.degrees(model, pool):
            entry = Replicas(model.index, pool.type, tp, 1)
            if tp <= free[pool.type]:
                worth = (max(slowest, ctx.toolkit.serve_time(model, [entry])), tp)
                if worth < least:
                    best, least = entry, worth
    if best is not None:
        kept.append(best)
        free[best.gpu] -= best.tp


def changed(ctx):
    """Whether the number of GPUs of some type is not what it was at the last plan."""
    before = {pool.type: pool.count for pool in ctx.last.gpus}
    return any(pool.count != before.get(pool.type, 0) for pool in ctx.gpus)


def kinds(ctx):
    """Every kind of replica that fits: model, GPU type, parallelism, batch."""
    return [
        Replicas(model.index, pool.type, tp, 0, batch)
        for model in ctx.models
        for pool in ctx.gpus
        for tp in ctx.toolkit.degrees(model, pool)
        for batch in BATCHES
        if batch < 2 * max(model.concurrency, 1)
    ]
