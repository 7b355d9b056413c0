"""The best plan, found again when the load has drifted: integer programming behind a threshold.

Seed of the paper's synthesis (Autopoiesis, arXiv 2604.07144, Section 5.2: ILP with a threshold trigger). Load is work, requests
times tokens; the drift is its largest relative change over the models since the last plan.
"""

API = 1

THRESHOLD = 0.3
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


def should_reschedule(ctx):
    return ctx.plan is None or not fits(ctx) or drift(ctx) > THRESHOLD


def schedule(ctx):
    return ctx.toolkit.best_plan(kinds(ctx))


def drift(ctx):
    """Largest relative change of a model's work since the last plan."""
    return max(
        abs(work(now) - work(then)) / max(work(now), work(then), 1.0)
        for now, then in zip(ctx.models, ctx.last.models)
    )


def work(model):
    return model.concurrency * (model.prompt_tokens + model.output_tokens)


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
