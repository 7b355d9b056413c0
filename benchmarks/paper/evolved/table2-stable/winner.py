"""Whenever GPUs come or go, the best plan for what there is now, whatever moves; of plans about as good the one that moves less.

The "full migration" of the paper's elastic case (Autopoiesis, arXiv 2604.07144, Section 8.2; SpotServe, arXiv 2311.15566, is its
model): each membership gets the plan it would have had from the start.
"""

API = 1

# seconds that a call is charged, steps that an unknown and a recurring load are reckoned to last
CHARGE = 2.15
NEW = 0.5
MOST = 10.0
CALM = 0.06
LIKE = 0.3
ROUNDS = 4
SECONDS = 0.05
WIDER = 1.015
CAP = 0.15


def should_reschedule(ctx):
    if ctx.plan is None or not balanced(ctx, ctx.plan):
        return True
    span = ctx.toolkit.makespan(ctx.plan)
    if span == math.inf:
        return True
    if similar(ctx, ctx.last.models, CALM):
        return False
    order = ranked(ctx)
    steps = duration(ctx)
    floor = least_time(ctx)
    old = counts(ctx.plan)
    for a in range(len(order)):
        target = (span - (CHARGE + 2 * heaviest(ctx, order[a])) / steps) * 0.97
        if target > floor and pack(ctx, target, old, order[a:], order[a:], 0.05, 0.3, False):
            return True
    return False


def schedule(ctx):
    order = ranked(ctx)
    if ctx.plan is None:
        return first(ctx, order)
    steps = duration(ctx)
    best = balanced(ctx, ctx.plan)
    least = steps * ctx.toolkit.makespan(best) if best else math.inf
    fastest = math.inf
    before = 0.0
    for entry in reversed(ctx.history):
        if entry.plan and similar(ctx, entry.models, LIKE):
            again = balanced(ctx, entry.plan)
            if again:
                span = ctx.toolkit.makespan(again)
                score = steps * span + ctx.toolkit.reconfigure_time(ctx.plan, again)
                if score < least:
                    best, least = again, score
                fastest = span
                before = max([ctx.toolkit.serve_time(m, entry.plan) for m in entry.models if m.concurrency > 0], default=0.0)
                break
    floor = least_time(ctx)
    if fastest < before * 1.15:
        return best
    old = counts(ctx.plan)
    for a in range(len(order)):
        target = min(100000.0, (least - 2 * heaviest(ctx, order[a])) / steps * 0.98)
        if target > floor and pack(ctx, target, old, order[a:], order[a:], 0.05, 0.3, False):
            plan = soonest(ctx, old, order[a:], order[a:], floor, target, ROUNDS, SECONDS)
            if plan:
                plan = widened(ctx, plan, old, order[a:]) if steps >= 2.0 else plan
                score = steps * ctx.toolkit.makespan(plan) + ctx.toolkit.reconfigure_time(ctx.plan, plan)
                if score < least:
                    best, least = plan, score
    return best if best else first(ctx, order)


def ranked(ctx):
    return [m.index for m in sorted(ctx.models, key=lambda m: -m.weight_bytes)]


def duration(ctx):
    """For how many steps a load like this one is reckoned to last: the more often it was seen, the longer."""
    seen = 0
    for entry in ctx.history:
        if similar(ctx, entry.models, LIKE):
            seen += 1
    return min(MOST, NEW + seen)


def first(ctx, order):
    floor = least_time(ctx)
    high = 2 * floor
    while high < 1e6 and not pack(ctx, high, {}, order, order, 0.1, 0.3, False):
        high *= 2
    plan = soonest(ctx, {}, order, order, floor, high, ROUNDS + 1, SECONDS)
    if plan:
        return widened(ctx, plan, {}, order)
    return ctx.toolkit.best_plan([
        Replicas(m.index, pool.type, tp, 0, batch)
        for m in ctx.models for pool in ctx.gpus for tp in ctx.toolkit.degrees(m, pool)
        for batch in (1, 4, 16, 64, 256) if batch < 2 * max(m.concurrency, 1)
    ])


def heaviest(ctx, index):
    """Seconds to move this model on the slowest type."""
    return max([ctx.toolkit.transfer_time(m, pool) for m in ctx.models if m.index == index for pool in ctx.gpus], default=0.0)


def widened(ctx, plan, old, free_ones):
    """A plan hardly slower that has the largest margins of requests, so that drift costs little; `plan` if there is none."""
    deadline = ctx.toolkit.makespan(plan) * WIDER
    wide = roomiest(ctx, deadline, old, free_ones)
    wide = balanced(ctx, wide) if wide else []
    if wide and ctx.toolkit.makespan(wide) <= deadline * 1.002:
        return wide
    return plan


def spread(ctx, model):
    """How much more work than now this model had at like loads, CAP before anything is known."""
    most = 0.03
    seen = 0
    for entry in ctx.history:
        for m in entry.models:
            if m.index == model.index:
                ratio = m.concurrency * m.output_tokens / max(1.0, model.concurrency * model.output_tokens)
                if ratio < 1.0 + LIKE:
                    seen += 1
                    most = max(most, ratio - 1.0)
    return most if seen >= 3 else CAP


def roomiest(ctx, deadline, old, free_ones):
    """A plan within the deadline with the largest margins of requests: the least one counts most, then the sum."""
    free = rooms(ctx)
    program = ctx.toolkit.milp()
    common = program.variable(0, CAP, -1.0, integer=False)
    use = {gpu: {} for gpu in free}
    chosen = []
    slack = []
    for model in ctx.models:
        if model.concurrency <= 0:
            continue
        terms = {}
        movable = model.index in free_ones
        for pool in ctx.gpus:
            for tp in ctx.toolkit.degrees(model, pool):
                had = old.get((model.index, pool.type, tp), 0)
                low = 0 if movable else had
                high = free[pool.type] // tp if movable else had
                if high < 1:
                    continue
                batch = largest(ctx, model, pool, tp, deadline)
                if batch < 1:
                    if low > 0:
                        return []
                    continue
                v = program.variable(low, high, 0.00001 * tp)
                terms[v] = batch
                use[pool.type][v] = tp
                chosen.append((v, model, pool.type, tp, batch))
        if not terms:
            return []
        bound_replicas(program, model, terms)
        v = program.variable(0, model.concurrency, 100.0, integer=False)
        slack.append(v)
        terms[v] = 1
        if movable:
            terms[common] = -model.concurrency
            own = program.variable(0, spread(ctx, model), -1.0, integer=False)
            terms[own] = -model.concurrency
        program.constraint(terms, model.concurrency, math.inf)
    for gpu in use:
        if use[gpu]:
            program.constraint(use[gpu], 0, free[gpu])
    x = program.solve(node_limit=1500, time_limit=SECONDS * 1.5, gap=0.05).x
    if not x:
        return []
    for v in slack:
        if x[v] > 0.001:
            return []
    return built(chosen, x)


def bound_replicas(program, model, terms):
    """The operator's bounds of the model's replicas."""
    if model.min_replicas > 1 or model.max_replicas > 0:
        ones = {v: 1 for v in terms}
        program.constraint(ones, model.min_replicas, model.max_replicas if model.max_replicas > 0 else math.inf)


def soonest(ctx, old, leave, go, low, high, rounds, seconds):
    """The plan of about the least deadline: relaxations bound it from below, then a few integer programs close in from above."""
    for _ in range(9):
        middle = math.sqrt(low * high)
        if pack(ctx, middle, old, leave, go, 0.05, 0.3, False):
            high = middle
        else:
            low = middle
        if high < low * 1.012:
            break
    best = []
    top = low
    for factor in (1.12, 1.35, 2.0, 4.0, 9.0):
        best = pack(ctx, low * factor, old, leave, go, seconds, 0.3, True)
        if best:
            top = ctx.toolkit.makespan(best)
            break
    for _ in range(rounds):
        if not best or top < low * 1.004:
            break
        middle = (low + top) / 2
        other = pack(ctx, middle, old, leave, go, seconds, 0.3, True)
        if other and ctx.toolkit.makespan(other) < top:
            best, top = other, ctx.toolkit.makespan(other)
        else:
            low = middle
    return best


def rooms(ctx):
    return {pool.type: min(pool.count, pool.quota or pool.count) for pool in ctx.gpus}


def counts(plan):
    """How many replicas there are of each (model, type, tp)."""
    old = {}
    for e in plan:
        key = (e.model, e.gpu, e.tp)
        old[key] = old.get(key, 0) + e.count
    return old


def similar(ctx, models, bound):
    """Whether every model's work differs by at most this share from the one in `models`."""
    then = {m.index: m for m in models}
    for m in ctx.models:
        if m.index not in then:
            return False
        work = m.concurrency * (m.prompt_tokens * 0.1 + m.output_tokens)
        before = then[m.index].concurrency * (then[m.index].prompt_tokens * 0.1 + then[m.index].output_tokens)
        if abs(work - before) > bound * max(work, before):
            return False
    return True


def balanced(ctx, force):
    """The replicas of a plan with the load balanced anew, empty if they cannot serve."""
    pools = {pool.type: pool for pool in ctx.gpus}
    for e in force:
        if e.gpu not in pools:
            return []
    for pool in ctx.gpus:
        if ctx.toolkit.gpus_used(force, pool) > min(pool.count, pool.quota or pool.count):
            return []
    old = counts(force)
    plan = []
    for model in ctx.models:
        own = [key for key in old if key[0] == model.index]
        if not own:
            if model.concurrency > 0:
                return []
            continue
        low, high = 0.0, 1.0
        while high < 1e6 and sum(largest(ctx, model, pools[k[1]], k[2], high) * old[k] for k in own) < model.concurrency:
            low, high = high, high * 3
        if high >= 1e6:
            return []
        for _ in range(10):
            middle = (low + high) / 2
            if sum(largest(ctx, model, pools[k[1]], k[2], middle) * old[k] for k in own) < model.concurrency:
                low = middle
            else:
                high = middle
        sizes = {k: largest(ctx, model, pools[k[1]], k[2], high) for k in own}
        cover = max(1, sum(sizes[k] * old[k] for k in own))
        for k in own:
            plan.append(Replicas(k[0], k[1], k[2], old[k], max(1, math.ceil(sizes[k] * model.concurrency / cover))))
    return plan


def pack(ctx, deadline, old, leave, go, seconds, gap, whole):
    """A plan that meets the deadline, by a small integer program; empty if there is none.

    Only models of `leave` may lose replicas of `old`, only those of `go` may gain some.
    """
    free = rooms(ctx)
    program = ctx.toolkit.milp()
    use = {gpu: {} for gpu in free}
    chosen = []
    slack = []
    for model in ctx.models:
        if model.concurrency <= 0:
            continue
        terms = {}
        dear = 0.0001 * math.sqrt(model.weight_bytes / 3e9)
        for pool in ctx.gpus:
            for tp in ctx.toolkit.degrees(model, pool):
                had = old.get((model.index, pool.type, tp), 0)
                low = 0 if model.index in leave else had
                high = free[pool.type] // tp if model.index in go else had
                if high < 1:
                    continue
                if low > high:
                    return []
                batch = largest(ctx, model, pool, tp, deadline)
                if batch < 1:
                    if low > 0:
                        return []
                    continue
                v = program.variable(low, high, dear * tp, integer=whole)
                terms[v] = batch
                use[pool.type][v] = tp
                chosen.append((v, model, pool.type, tp, batch))
        if not terms:
            return []
        bound_replicas(program, model, terms)
        v = program.variable(0, model.concurrency, 1.0, integer=False)
        terms[v] = 1
        slack.append(v)
        program.constraint(terms, model.concurrency, math.inf)
    for gpu in use:
        if use[gpu]:
            program.constraint(use[gpu], 0, free[gpu])
    solution = program.solve(node_limit=2000, time_limit=seconds, gap=gap)
    x = solution.x
    if not x:
        return []
    for v in slack:
        if x[v] > 0.001:
            return []
    return built(chosen, x) if whole else chosen


def built(chosen, x):
    """Replicas of the counts found, each kind with its share of the load."""
    cover = {}
    for v, model, gpu, tp, batch in chosen:
        cover[model.index] = cover.get(model.index, 0) + batch * int(round(x[v]))
    plan = []
    for v, model, gpu, tp, batch in chosen:
        count = int(round(x[v]))
        if count > 0:
            size = math.ceil(batch * model.concurrency / max(cover[model.index], model.concurrency))
            plan.append(Replicas(model.index, gpu, tp, count, max(1, size)))
    return plan


def least_time(ctx):
    """No plan can be faster than this: every model's best latency for one request."""
    return max([
        min([ctx.toolkit.latency(m, pool, tp, 1) for pool in ctx.gpus for tp in ctx.toolkit.degrees(m, pool)], default=0.01)
        for m in ctx.models if m.concurrency > 0
    ], default=0.01)


def largest(ctx, model, pool, tp, deadline):
    low, high = 0, model.concurrency
    while low < high:
        middle = (low + high + 1) // 2
        if ctx.toolkit.latency(model, pool, tp, middle) <= deadline:
            low = middle
        else:
            high = middle - 1
    return low
