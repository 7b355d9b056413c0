"""Whenever GPUs come or go, the best plan for what there is now, whatever moves; of plans about as good the one that moves less.

The "full migration" of the paper's elastic case (Autopoiesis, arXiv 2604.07144, Section 8.2; SpotServe, arXiv 2311.15566, is its
model): each membership gets the plan it would have had from the start.
"""

API = 1

TIE = 0.05
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


def should_reschedule(ctx):
    return ctx.plan is None or changed(ctx)


def schedule(ctx):
    return ctx.toolkit.best_plan(kinds(ctx), keep=ctx.plan or (), move_weight=TIE)


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
