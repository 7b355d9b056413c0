"""SpotServe as the paper uses it: one parallel configuration for all replicas, searched again when machines come or go.

After arXiv 2311.15566: the configuration of least serving time for the GPUs there are; adopted when the old one has lost GPUs,
or when a whole machine has joined since. Moving is matched so that replicas that stay keep their weights.
"""

API = 1


def should_reschedule(ctx):
    if ctx.plan is None:
        return True
    return any(
        pool.count < ctx.toolkit.gpus_used(ctx.plan, pool) or pool.count >= before.count + 2 * pool.per_node + 2
        for pool, before in zip(ctx.gpus, ctx.last.gpus)
    )


def schedule(ctx):
    model, pool = ctx.models[0], ctx.gpus[0]
    plans = [
        [Replicas(model.index, pool.type, tp, pool.count // tp)]
        for tp in ctx.toolkit.degrees(model, pool)
        if pool.count >= tp
    ]
    old = ctx.plan or []
    if old and ctx.toolkit.gpus_used(old, pool) <= pool.count:
        plans.insert(0, old)
    return min(plans, key=lambda plan: 7.0 * ctx.toolkit.serve_time(model, plan) + ctx.toolkit.reconfigure_time(old, plan))
