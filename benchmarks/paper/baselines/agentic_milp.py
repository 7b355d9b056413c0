"""Integer programming over calls: a prefill and a decode instance for each, so that the busiest instance has least to do.

The "MILP" of the paper's agentic case (Autopoiesis, arXiv 2604.07144, Section 8.3), which gives no formulation: this is the textbook
one of makespan on unrelated machines. Binaries say who serves whom, an instance's work is the sum of what its calls take alone;
that decode instances serve many calls at once, and what is cached where, is not in it. Queues first come, first served.
"""

API = 1

TIME_LIMIT = 5.0
GAP = 0.02


def should_reschedule(ctx):
    return True


def schedule(ctx):
    calls = [model for model in ctx.models if model.concurrency]
    plan = []
    for role in ("prefill", "decode"):
        for model, instance in placed(ctx, calls, role):
            plan.append(Replicas(model.index, instance, 1, 1, 0, role, 1.0 * model.index))
    return plan


def placed(ctx, calls, role):
    """Pairs of call and instance that minimise the time of the latest instance of this role."""
    pools = [pool for pool in ctx.gpus if pool.type.startswith(role)]
    program = ctx.toolkit.milp()
    latest = program.variable(0.0, math.inf, 1.0, False)
    chosen = {}
    for i, model in enumerate(calls):
        for j, pool in enumerate(pools):
            chosen[(i, j)] = program.variable(0, 1, 0.0)
        program.constraint({chosen[(i, j)]: 1.0 for j in range(len(pools))}, 1.0, 1.0)
    for j, pool in enumerate(pools):
        load = {latest: 1.0}
        for i, model in enumerate(calls):
            load[chosen[(i, j)]] = -alone(ctx, model, pool, role)
        program.constraint(load, 0.0, math.inf)
    found = program.solve(time_limit=TIME_LIMIT, gap=GAP)
    if not found.x:
        return [(model, pools[i % len(pools)].type) for i, model in enumerate(calls)]
    return [
        (model, pools[j].type)
        for i, model in enumerate(calls)
        for j in range(len(pools))
        if found.x[chosen[(i, j)]] > 0.5
    ]


def alone(ctx, model, pool, role):
    if role == "prefill":
        return ctx.toolkit.latency(model, pool, 1, 1) - ctx.toolkit.decode_time(model, pool, 1, 1)
    return ctx.toolkit.decode_time(model, pool, 1, 1)
