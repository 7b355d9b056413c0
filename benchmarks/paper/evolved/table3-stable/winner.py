"""Enumerate the heavy model's placements, charge evictions early, none later.

Counts of every kind (mixed parallelism) are enumerated and filled to equal finishing times; score is a horizon of serving, the move
and, before step 2, the moves that shrinking types would force.
"""

API = 1

HORIZON = 2.4
LATE = 1.5
CHANCE = 1.0
CHANCES = (0.5, 0.25, 0.15)


def should_reschedule(ctx):
    """Only where GPUs of the plan have gone or the load has changed: growth does not repay a load of the heavy model."""
    if ctx.plan is None or {p.type: p.count for p in ctx.gpus} != {p.type: p.count for p in ctx.last.gpus}:
        return True
    return any(
        now.concurrency != then.concurrency or now.prompt_tokens != then.prompt_tokens or now.output_tokens != then.output_tokens
        for now, then in zip(ctx.models, ctx.last.models)
    )


def schedule(ctx):
    order = sorted(ctx.models, key=lambda m: -m.weight_bytes * min(1, m.concurrency))
    heavy = order[0]
    old = ctx.plan or []
    horizon = HORIZON if ctx.step < 2 else LATE
    fast = max(pool.pcie_bandwidth for pool in ctx.gpus if pool.count > 0)
    tables = {}
    for pool in ctx.gpus:
        for tp in ctx.toolkit.degrees(heavy, pool):
            if room(pool) >= tp and pool.pcie_bandwidth >= fast and (tp >= 4 or heavy.weight_bytes < 1e11):
                tables[(pool.type, tp)] = [ctx.toolkit.latency(heavy, pool, tp, b) for b in range(1, max(1, heavy.concurrency) + 1)]
    was = {}
    for e in old:
        if e.model == heavy.index:
            was[(e.gpu, e.tp)] = was.get((e.gpu, e.tp), 0) + e.count
    best, best_score = [], math.inf
    mine = [(k[0], k[1], was[k]) for k in was if k in tables]
    shapes = placements(ctx, heavy, tables)
    if mine and len(mine) == len(was) and all(sum(tp * n for g, tp, n in mine if g == p.type) <= room(p) for p in ctx.gpus):
        shapes.insert(0, mine)
    for shape in shapes:
        moved = move_cost(ctx, heavy, was, shape)
        bare = [Replicas(heavy.index, gpu, tp, n, 1) for gpu, tp, n in shape]
        limit = (best_score - moved - CHANCE * risk(ctx, bare)) / horizon
        if limit <= 0 or not covers(heavy, tables, shape, limit * 0.9995):
            continue
        deadline = least(heavy, tables, shape, limit)
        if deadline == math.inf:
            continue
        plan = []
        for gpu, tp, n in shape:
            batch = batch_at(tables[(gpu, tp)], deadline)
            if batch > 0:
                plan.append(Replicas(heavy.index, gpu, tp, n, batch))
        plan = with_lights(ctx, order[1:], plan, deadline, old, moved)
        if not plan:
            continue
        score = horizon * ctx.toolkit.makespan(plan) + ctx.toolkit.reconfigure_time(old, plan) + CHANCE * risk(ctx, plan)
        if score < best_score:
            best, best_score = plan, score
    if best:
        return polished(ctx, best)
    return ctx.toolkit.best_plan(spare_kinds(ctx), keep=old, move_weight=0.5, time_limit=1.5, gap=0.01)


def room(pool):
    return min(pool.count, pool.quota or pool.count)


def placements(ctx, heavy, tables):
    """Every choice of counts of the kinds, rising in GPUs."""
    shapes = [[]]
    for pool in ctx.gpus:
        here = [[]]
        for gpu, tp in tables:
            if gpu == pool.type:
                grown = []
                for part in here:
                    left = room(pool) - sum(t * n for g, t, n in part)
                    grown.append(part)
                    for n in range(1, left // tp + 1):
                        grown.append(part + [(gpu, tp, n)])
                here = grown
        shapes = [shape + part for shape in shapes for part in here]
    low = max(heavy.min_replicas, 1)
    high = heavy.max_replicas or 1000000
    return [s for s in shapes if low <= sum(n for gpu, tp, n in s) <= high]


def batch_at(table, deadline):
    low, high = 0, len(table)
    while low < high:
        middle = (low + high + 1) // 2
        if table[middle - 1] <= deadline:
            low = middle
        else:
            high = middle - 1
    return low


def covers(heavy, tables, shape, deadline):
    total = 0
    for gpu, tp, n in shape:
        total += n * batch_at(tables[(gpu, tp)], deadline)
    return total >= heavy.concurrency


def least(heavy, tables, shape, limit):
    """The least deadline that the placement meets."""
    top = max(max([t for t in tables[(gpu, tp)] if t < math.inf], default=0.0) for gpu, tp, n in shape)
    high = min(limit, top)
    if high <= 0 or not covers(heavy, tables, shape, high):
        return math.inf
    low = 0.0
    for _ in range(13):
        middle = (low + high) / 2
        if covers(heavy, tables, shape, middle):
            high = middle
        else:
            low = middle
    return high


def move_cost(ctx, heavy, was, shape):
    """The heavy model's part of the move: the slowest type left and the slowest type gone to."""
    if not was:
        return 0.0
    new = {(gpu, tp): n for gpu, tp, n in shape}
    out, into = 0.0, 0.0
    for pool in ctx.gpus:
        tau = ctx.toolkit.transfer_time(heavy, pool)
        for gpu, tp in list(was) + list(new):
            if gpu == pool.type:
                if new.get((gpu, tp), 0) < was.get((gpu, tp), 0):
                    out = max(out, tau)
                if new.get((gpu, tp), 0) > was.get((gpu, tp), 0):
                    into = max(into, tau)
    return out + into


def risk(ctx, plan):
    """Seconds of forced moves expected: each type may shrink by one machine, two or three (CHANCES); the lightest models leave."""
    if ctx.step >= 2:
        return 0.0
    cost = 0.0
    for pool in ctx.gpus:
        used = ctx.toolkit.gpus_used(plan, pool)
        if used <= 0:
            continue
        users = []
        for model in ctx.models:
            mine = sum(e.tp * e.count for e in plan if e.model == model.index and e.gpu == pool.type)
            if mine > 0:
                users.append((ctx.toolkit.transfer_time(model, pool), mine))
        users = sorted(users)
        for i, chance in enumerate(CHANCES):
            over = used - max(0, pool.count - (i + 1) * pool.per_node)
            tau = 0.0
            for t, mine in users:
                if over > 0:
                    tau = t
                    over -= mine
            cost += chance * 2 * tau
    return cost


def with_lights(ctx, lights, plan, deadline, old, moved):
    """The plan with every light model placed in time at the least move and risk, empty if one cannot be."""
    for model in lights:
        if model.concurrency <= 0 and model.min_replicas <= 0:
            continue
        free = {pool.type: room(pool) - ctx.toolkit.gpus_used(plan, pool) for pool in ctx.gpus}
        mine = [e for e in old if e.model == model.index]
        best, least_cost = [], math.inf
        if mine:
            need = {}
            for e in mine:
                need[e.gpu] = need.get(e.gpu, 0) + e.tp * e.count
            if all(need[g] <= free.get(g, 0) for g in need) and ctx.toolkit.serve_time(model, mine) <= deadline * 1.01:
                best, least_cost = plan + mine, CHANCE * risk(ctx, plan + mine)
        leave = 0.0
        for pool in ctx.gpus:
            if any(e.gpu == pool.type for e in mine):
                leave = max(leave, ctx.toolkit.transfer_time(model, pool))
        for pool in ctx.gpus:
            for tp in ctx.toolkit.degrees(model, pool):
                batch = largest(ctx, model, pool, tp, deadline)
                if batch > 0:
                    n = max(-(-model.concurrency // batch), model.min_replicas, 1)
                    if n * tp <= free[pool.type] and n <= (model.max_replicas or n):
                        other = plan + [Replicas(model.index, pool.type, tp, n, -(-max(model.concurrency, 1) // n))]
                        cost = CHANCE * risk(ctx, other) + 0.01 * n * tp
                        if mine:
                            cost += max(0.1, leave + ctx.toolkit.transfer_time(model, pool) - moved)
                        if cost < least_cost:
                            best, least_cost = other, cost
        if not best:
            return []
        plan = best
    return plan


def largest(ctx, model, pool, tp, deadline):
    low, high = 0, max(model.concurrency, 1)
    while low < high:
        middle = (low + high + 1) // 2
        if ctx.toolkit.latency(model, pool, tp, middle) <= deadline:
            low = middle
        else:
            high = middle - 1
    return low


def spare_kinds(ctx):
    return [
        Replicas(model.index, pool.type, tp, 0, batch)
        for model in ctx.models
        for pool in ctx.gpus
        for tp in ctx.toolkit.degrees(model, pool)
        for batch in (1, 4, 8, 12, 16, 20, 24, 32, 43, 64, 128, 256, 512)
        if batch < 2 * max(model.concurrency, 1)
    ]


def polished(ctx, plan):
    """Batches by interpolated speed in a finer unit: shares per replica and per group, judged by makespan."""
    slow = max(ctx.models, key=lambda m: ctx.toolkit.serve_time(m, plan))
    groups = [e for e in plan if e.model == slow.index]
    others = [e for e in plan if e.model != slow.index]
    real = parts_of(ctx, slow, groups)
    total = sum(real)
    best, now = plan, ctx.toolkit.makespan(plan)
    for per in (0, 1):
        for keep in (0, 1):
            new = [
                Replicas(e.model, e.gpu, e.tp, e.count, e.batch * keep, e.role, part / total / (e.count if per else 1))
                for e, part in zip(groups, real)
            ]
            then = ctx.toolkit.makespan(others + new)
            if then < now - 1e-6:
                best, now = others + new, then
    return best

def parts_of(ctx, model, groups):
    """Requests that each group serves, in fractions, when all finish at the same time."""
    pools = {pool.type: pool for pool in ctx.gpus}
    seconds = max([ctx.toolkit.latency(model, pools[e.gpu], e.tp, max(1, e.batch)) for e in groups], default=0.0)
    real = []
    for e in groups:
        b = max(1, e.batch)
        one = ctx.toolkit.latency(model, pools[e.gpu], e.tp, b)
        two = ctx.toolkit.latency(model, pools[e.gpu], e.tp, b + 1)
        more = (seconds - one) / (two - one) if one < two < math.inf else 0.0
        real.append(e.count * (b + min(1.5, max(0.0, more))))
    return real
