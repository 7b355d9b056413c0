"""Whenever GPUs come or go, only what must move: replicas that keep their GPUs stay.

The "minimal migration" of the paper's elastic case (Autopoiesis, arXiv 2604.07144, Section 8.2): cheap moves, plans
that age. Replicas that have lost their GPUs start again, as they were, on free ones, where that helps; other new GPUs stay unused.
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
    for model in ctx.models:
        kept = restarted(ctx, model, kept, free)
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


def restarted(ctx, model, kept, free):
    """`kept` with the model's lost replicas on free GPUs, requests in proportion to speed, if that serves it sooner."""
    more = list(kept)
    room = free.copy()
    for entry in ctx.plan:
        if entry.model == model.index:
            same = [k.count for k in kept if (k.model, k.gpu, k.tp) == (entry.model, entry.gpu, entry.tp)]
            lost = entry.count - sum(same)
            for pool in sorted(ctx.gpus, key=lambda g: ctx.toolkit.latency(model, g, entry.tp, 1)):
                count = min(max(lost, 0), room[pool.type] // entry.tp)
                if count and ctx.toolkit.fits(model, pool, entry.tp):
                    more.append(Replicas(entry.model, pool.type, entry.tp, count, 0, entry.role))
                    room[pool.type] -= count * entry.tp
                    lost -= count
    more = by_speed(ctx, model, more) if len(more) > len(kept) else kept
    if not ctx.toolkit.serve_time(model, more) < ctx.toolkit.serve_time(model, kept):
        return kept
    for gpu in room:
        free[gpu] = room[gpu]
    return more


def by_speed(ctx, model, plan):
    own = [entry for entry in plan if entry.model == model.index]
    even = max(1, math.ceil(model.concurrency / max(1, sum(entry.count for entry in own))))
    pools = {pool.type: pool for pool in ctx.gpus}
    speeds = [1.0 / ctx.toolkit.latency(model, pools[e.gpu], e.tp, even) for e in own]
    rate = sum(speed * entry.count for speed, entry in zip(speeds, own))
    return [entry for entry in plan if entry.model != model.index] + [
        Replicas(e.model, e.gpu, e.tp, e.count, max(1, math.ceil(model.concurrency * speed / rate)), e.role)
        for e, speed in zip(own, speeds)
    ]


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
