"""Greedy at every step: one replica at a time for the model that would finish last.

The paper's "greedy" seed and baseline (Autopoiesis, arXiv 2604.07144, Section 8.1): cheap to compute, blind to what moving
costs. The paper does not give its code; this is the usual greedy for makespan on unrelated machines, in whole replicas.
"""

API = 1

SAMPLE = 16


def should_reschedule(ctx):
    return True


def schedule(ctx):
    free = {pool.type: min(pool.count, pool.quota or pool.count) for pool in ctx.gpus}
    speeds = {
        (model.index, pool.type, tp): SAMPLE / ctx.toolkit.latency(model, pool, tp, SAMPLE)
        for model in ctx.models
        if model.concurrency or model.min_replicas
        for pool in ctx.gpus
        for tp in ctx.toolkit.degrees(model, pool)
    }
    counts = {}
    for model in sorted(ctx.models, key=lambda m: -m.weight_bytes):
        for _ in range(max(model.min_replicas, 1 if model.concurrency else 0)):
            fitting = [kind for kind in speeds if kind[0] == model.index and kind[2] <= free[kind[1]]]
            if fitting:
                add(min(fitting, key=lambda kind: (kind[2], -speeds[kind])), counts, free)
    growing = [m for m in ctx.models if m.concurrency]
    while growing:
        last = max(growing, key=lambda m: time_of(ctx, m, counts, speeds))
        if not improve(ctx, last, counts, free, speeds):
            growing.remove(last)
    return plan_of(ctx, counts, speeds)


def improve(ctx, model, counts, free, speeds):
    """Add a replica, or put one in the place of another, whichever serves this model soonest; False where nothing helps."""
    own = [kind for kind, count in counts.items() if kind[0] == model.index and count]
    may_grow = not model.max_replicas or sum(counts[kind] for kind in own) < model.max_replicas
    best, soonest = None, time_of(ctx, model, counts, speeds)
    for kind in speeds:
        if kind[0] == model.index:
            for gone in own + [None] if may_grow else own:
                back = gone[2] if gone and gone[1] == kind[1] else 0
                if kind != gone and kind[2] <= free[kind[1]] + back:
                    then = time_of(ctx, model, changed(counts, kind, gone), speeds)
                    if then < soonest:
                        best, soonest = (kind, gone), then
    if best is None:
        return False
    if best[1]:
        counts[best[1]] -= 1
        free[best[1][1]] += best[1][2]
    add(best[0], counts, free)
    return True


def add(kind, counts, free):
    counts[kind] = counts.get(kind, 0) + 1
    free[kind[1]] -= kind[2]


def changed(counts, kind, gone):
    after = counts.copy()
    after[kind] = counts.get(kind, 0) + 1
    if gone:
        after[gone] -= 1
    return after


def time_of(ctx, model, counts, speeds):
    return ctx.toolkit.serve_time(model, [r for r in plan_of(ctx, counts, speeds) if r.model == model.index])


def plan_of(ctx, counts, speeds):
    """Every replica gets requests in proportion to its speed."""
    rates = [0.0 for _ in ctx.models]
    for kind, count in counts.items():
        rates[kind[0]] += speeds[kind] * count
    return [
        Replicas(
            kind[0], kind[1], kind[2], count, batch_of(ctx.models[kind[0]], speeds[kind] / rates[kind[0]])
        )
        for kind, count in counts.items()
        if count
    ]


def batch_of(model, share):
    return max(1, math.ceil(model.concurrency * share))
