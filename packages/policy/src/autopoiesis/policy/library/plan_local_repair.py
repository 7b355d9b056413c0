"""Repair the plan in force by single replicas, as long as each change pays for its move.

Seed of the paper's synthesis (Autopoiesis, arXiv 2604.07144, Section 5.2: local repair). Replicas whose GPUs have gone are dropped.
Then the model that finishes last gets a replica, on free GPUs or in place of another one on the same type, the best change
first, while serving and moving together take less time than before.
"""

API = 1

ROUNDS = 8
BATCHES = (1, 4, 16, 64, 256, 1024)


def should_reschedule(ctx):
    return True


def schedule(ctx):
    if ctx.plan is None:
        return ctx.toolkit.best_plan(kinds(ctx))
    plan = survivors(ctx)
    for _ in range(ROUNDS):
        better = min(neighbours(ctx, plan), key=lambda other: cost(ctx, other), default=plan)
        if not cost(ctx, better) < cost(ctx, plan):
            break
        plan = better
    return plan if ctx.toolkit.makespan(plan) < math.inf else ctx.toolkit.best_plan(kinds(ctx))


def cost(ctx, plan):
    """Models left unserved, then seconds of serving and moving."""
    times = [ctx.toolkit.serve_time(model, plan) for model in ctx.models]
    served = [seconds for seconds in times if seconds < math.inf]
    seconds = max(served, default=0.0) + ctx.toolkit.reconfigure_time(ctx.plan, plan)
    return (len(times) - len(served), seconds)


def survivors(ctx):
    """The plan in force without what has lost its GPUs; the entry with most replicas gives one up first."""
    plan = [entry for entry in ctx.plan if any(entry.gpu == pool.type for pool in ctx.gpus)]
    for pool in ctx.gpus:
        while ctx.toolkit.gpus_used(plan, pool) > room(pool):
            here = [i for i in range(len(plan)) if plan[i].gpu == pool.type]
            plan = without(plan, max(here, key=lambda i: plan[i].count))
    return plan


def neighbours(ctx, plan):
    """Every plan with one more replica of the model that finishes last, and at most one replica of another less."""
    last = max(ctx.models, key=lambda m: ctx.toolkit.serve_time(m, plan))
    found = []
    for pool in ctx.gpus:
        for tp in ctx.toolkit.degrees(last, pool):
            smaller = [plan]
            smaller += [
                without(plan, i)
                for i in range(len(plan))
                if plan[i].gpu == pool.type and may_lose(ctx, plan, i)
            ]
            for base in smaller:
                if ctx.toolkit.gpus_used(base, pool) + tp <= room(pool) and may_gain(last, base):
                    found.append(with_one(base, last, pool, tp))
    return found


def may_lose(ctx, plan, i):
    model = ctx.models[plan[i].model]
    return plan[i].count > 0 and replicas_of(model, plan) > max(model.min_replicas, 1)


def may_gain(model, plan):
    return not model.max_replicas or replicas_of(model, plan) < model.max_replicas


def replicas_of(model, plan):
    return sum(entry.count for entry in plan if entry.model == model.index)


def without(plan, i):
    return plan[:i] + [resized(plan[i], plan[i].count - 1)] + plan[i + 1 :]


def with_one(plan, model, pool, tp):
    for i in range(len(plan)):
        if plan[i].model == model.index and plan[i].gpu == pool.type and plan[i].tp == tp:
            return plan[:i] + [resized(plan[i], plan[i].count + 1)] + plan[i + 1 :]
    return plan + [Replicas(model.index, pool.type, tp, 1)]


def resized(entry, count):
    return Replicas(entry.model, entry.gpu, entry.tp, count, 0, entry.role)


def room(pool):
    return min(pool.count, pool.quota or pool.count)


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
