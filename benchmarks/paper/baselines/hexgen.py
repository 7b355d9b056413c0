"""The MILP of arXiv 2502.00722, which the paper calls HexGen: cost-efficient serving over heterogeneous GPUs.

Configurations are generated first (type, parallelism, batch up to one cap for all), then an integer program chooses how many of
each minimise the makespan within what is available. Solved anew at each phase; no regard to what moving costs.
"""

API = 1

CAP = 512


def should_reschedule(ctx):
    if ctx.plan is None:
        return True
    return any(
        now.concurrency != then.concurrency
        or now.prompt_tokens != then.prompt_tokens
        or now.output_tokens != then.output_tokens
        for now, then in zip(ctx.models, ctx.last.models)
    )


def schedule(ctx):
    batches = [1]
    while 2 * batches[-1] <= CAP:
        batches.append(2 * batches[-1])
    kinds = [
        Replicas(model.index, pool.type, tp, 0, batch)
        for model in ctx.models
        for pool in ctx.gpus
        for tp in ctx.toolkit.degrees(model, pool)
        for batch in batches
        if batch < 2 * max(model.concurrency, 1)
    ]
    return ctx.toolkit.best_plan(kinds)
