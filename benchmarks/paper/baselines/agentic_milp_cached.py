"""Integer programming over calls that knows caches, batches and queues: a stronger rival of ours for the agentic case.

As `agentic_milp`, but what an instance has cached takes no time, a decode instance takes as long as the longest of its calls at the
batch it would have if calls were spread evenly, or as its share of the work, and longest answers are read first.
"""

API = 1

TIME_LIMIT = 5.0
GAP = 0.02


def should_reschedule(ctx):
    return True


def schedule(ctx):
    calls = [model for model in ctx.models if model.concurrency]
    order = sorted(calls, key=lambda m: -m.output_tokens)
    places = {model.index: 1.0 * place for place, model in enumerate(order)}
    plan = []
    for role in ("prefill", "decode"):
        for model, instance in placed(ctx, calls, role):
            plan.append(Replicas(model.index, instance, 1, 1, 0, role, places[model.index]))
    return plan


def placed(ctx, calls, role):
    """Pairs of call and instance that minimise the time of the latest instance of this role."""
    pools = [pool for pool in ctx.gpus if pool.type.startswith(role)]
    batch = max(1, len(calls) // len(pools))
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
            if role == "prefill":
                load[chosen[(i, j)]] = -ctx.toolkit.prefill_time(model, pool, 1, 1)
            else:
                alone = ctx.toolkit.decode_time(model, pool, 1, batch)
                program.constraint({latest: 1.0, chosen[(i, j)]: -alone}, 0.0, math.inf)
                load[chosen[(i, j)]] = -alone / batch
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
