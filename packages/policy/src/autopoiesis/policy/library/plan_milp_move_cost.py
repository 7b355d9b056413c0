"""The plan that is best after paying for the moves: integer programming with a reconfiguration penalty.

Seed of the paper's synthesis (Autopoiesis, arXiv 2604.07144, Sections 5.2 and 8.2: a reconfiguration penalty in the ILP). A
model is moved only where that shortens the serving time by more than terminating and loading it costs.
"""

API = 1

MOVE_WEIGHT = 1.0
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


def should_reschedule(ctx):
    if ctx.plan is None or not fits(ctx):
        return True
    return any(
        now.concurrency != then.concurrency
        or now.prompt_tokens != then.prompt_tokens
        or now.output_tokens != then.output_tokens
        for now, then in zip(ctx.models, ctx.last.models)
    )


def schedule(ctx):
    return ctx.toolkit.best_plan(kinds(ctx), keep=ctx.plan or (), move_weight=MOVE_WEIGHT)


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
