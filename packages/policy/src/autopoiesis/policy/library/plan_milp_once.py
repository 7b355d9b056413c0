"""The best plan for the first load, kept: integer programming once.

The paper's "ILP" seed and baseline (Autopoiesis, arXiv 2604.07144, Section 8.1 and Appendix G): least makespan over integer
counts of replicas per model, GPU type, parallelism and batch. It solves again only when GPUs of its plan have gone.
"""

API = 1

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


def should_reschedule(ctx):
    return ctx.plan is None or not fits(ctx)


def schedule(ctx):
    return ctx.toolkit.best_plan(kinds(ctx))


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


def fits(ctx):
    """Whether the plan in force still has its GPUs."""
    return all(ctx.toolkit.gpus_used(ctx.plan, pool) <= pool.count for pool in ctx.gpus)
