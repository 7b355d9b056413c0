"""The plan that is best after paying for the moves: integer programming with a reconfiguration penalty.

Seed of the paper's synthesis (Autopoiesis, arXiv 2604.07144, Sections 5.2 and 8.2: a reconfiguration penalty in the ILP). A
model is moved only where that shortens the serving time by more than terminating and loading it costs.
"""

API = 1

HORIZON = 1.8
# (concurrency, output tokens) of the load of small models that alternates with the one of large models, by model
HINT = ((960, 4096), (480, 3072), (288, 6144), (64, 2048), (32, 1536), (16, 1280))
# (slack of the first makespan, how many of the heaviest models stay, up to which the others only shrink)
SCENES = ((1.0005, 2, 2), (1.01, 2, 2), (1.02, 2, 2), (1.03, 2, 3))
LATERS = (10.4, 10.9, 11.4, 12.0, 12.6, 13.2, 14.0, 15.5)
TRIES = 8
SECONDS = 0.8
# who may leave (from this rank of weight on) and who may arrive, cheap and likely ones first
PAIRS = ((2, 2), (2, 3), (3, 2), (3, 3), (1, 3), (3, 1), (1, 2), (2, 1), (1, 1), (0, 2), (2, 0), (0, 1), (1, 0), (0, 0))


def should_reschedule(ctx):
    if ctx.plan is None or not fits(ctx):
        return True
    return True


def schedule(ctx):
    order = [m.index for m in sorted(ctx.models, key=lambda m: -m.weight_bytes)]
    if ctx.plan is None:
        return first(ctx, order)
    best = balanced(ctx, ctx.plan)
    span = ctx.toolkit.makespan(best) if best else math.inf
    if span < math.inf and similar(ctx, ctx.last.models) and same_fleet(ctx, ctx.last.gpus):
        return best
    least = HORIZON * span
    tried = []
    for entry in reversed(ctx.history):
        if entry.plan and similar(ctx, entry.models) and list(entry.plan) not in tried and len(tried) < 4:
            tried.append(list(entry.plan))
            again = balanced(ctx, entry.plan)
            if again:
                score = HORIZON * ctx.toolkit.makespan(again) + ctx.toolkit.reconfigure_time(ctx.plan, again)
                if score < least:
                    best, least = again, score
                    span = ctx.toolkit.makespan(again)
                    if same_fleet(ctx, entry.gpus):
                        return best
    floor = least_time(ctx)
    old = counts(ctx.plan)
    for a, b in PAIRS:
        if a < len(order) and b < len(order):
            cost = heaviest(ctx, order[a]) + heaviest(ctx, order[b])
            target = min(1000.0, (least - cost) / HORIZON * 0.995, span * 0.995 if b > 0 else 1000.0)
            if target > floor:
                plan = pack(ctx, target, old, order[a:], order[b:], 0.12, 0.3)
                if plan:
                    plan = bisected(ctx, plan, floor, old, order[a:], order[b:], 8 if least > 60.0 else 4, 0.12)
                    score = HORIZON * ctx.toolkit.makespan(plan) + ctx.toolkit.reconfigure_time(ctx.plan, plan)
                    if score < least:
                        best, least, span = plan, score, ctx.toolkit.makespan(plan)
    if not best:
        return first(ctx, order)
    return balanced(ctx, best) or best


def first(ctx, order):
    """The fastest plan, or one about as fast that goes best with a plan for the load of HINT: the least estimated time of a cycle."""
    plan = quickest(ctx, order)
    if not plan or len(ctx.models) != len(HINT):
        return plan
    span = ctx.toolkit.makespan(plan)
    best, least, tries = plan, math.inf, TRIES
    for slack, s, k in SCENES:
        cost = heaviest(ctx, order[s]) + heaviest(ctx, order[k])
        for later in LATERS:
            value = 6 * span * slack + 4 * later + 3 * cost
            if value > least - 0.5 or tries <= 0:
                break
            if pair(ctx, span * slack, later, order[:s], order[s:k], False) is None:
                continue
            tries -= 1
            both = pair(ctx, span * slack, later, order[:s], order[s:k], True)
            if both and ctx.toolkit.makespan(both) <= span * slack * 1.005:
                best, least = both, value
                break
    return best


def pair(ctx, deadline, later, stay, shrink, whole):
    """The plan for now of a pair, None if there is none: one for now, one for the load of HINT.

    Models of `stay` have the same replicas in both, those of `shrink` none in the second that they do not have in the first.
    With `whole` false the counts may be fractions, just to see whether it is worth a search.
    """
    free = rooms(ctx)
    program = ctx.toolkit.milp()
    now = {gpu: {} for gpu in free}
    then = {gpu: {} for gpu in free}
    chosen = []
    slack = []
    for model in ctx.models:
        load, output = HINT[model.index]
        longer = output / max(1.0, model.output_tokens)
        wider = (256 + output / 2) / (model.prompt_tokens + model.output_tokens / 2)
        terms = {}
        others = {}
        for pool in ctx.gpus:
            for tp in ctx.toolkit.degrees(model, pool):
                most = free[pool.type] // tp
                if most < 1:
                    continue
                batch = largest(ctx, model, pool, tp, deadline)
                room = int(upto(ctx, model, pool, tp, later / longer, math.ceil(load * wider)) / wider)
                v = -1
                if batch > 0:
                    v = program.variable(0, most, 0.00001 * tp, integer=whole)
                    terms[v] = batch
                    now[pool.type][v] = tp
                    chosen.append((v, model, pool.type, tp, batch))
                    if model.index in stay:
                        then[pool.type][v] = tp
                        if room > 0:
                            others[v] = room
                if room > 0 and model.index not in stay and (v >= 0 or model.index not in shrink):
                    w = program.variable(0, most, 0.00001 * tp, integer=whole)
                    others[w] = room
                    then[pool.type][w] = tp
                    if model.index in shrink:
                        program.constraint({w: 1, v: -1}, -math.inf, 0)
        v = program.variable(0, model.concurrency, 1.0, integer=False)
        terms[v] = 1
        slack.append(v)
        program.constraint(terms, model.concurrency, math.inf)
        v = program.variable(0, load, 1.0, integer=False)
        others[v] = 1
        slack.append(v)
        program.constraint(others, load, math.inf)
    for gpu in free:
        if now[gpu]:
            program.constraint(now[gpu], 0, free[gpu])
        if then[gpu]:
            program.constraint(then[gpu], 0, free[gpu])
    solution = program.solve(node_limit=5000, time_limit=SECONDS, gap=0.3)
    x = solution.x
    if not x:
        return None
    for v in slack:
        if x[v] > 0.001:
            return None
    return built(chosen, x)


def upto(ctx, model, pool, tp, deadline, most):
    low, high = 0, int(most)
    while low < high:
        middle = (low + high + 1) // 2
        if ctx.toolkit.latency(model, pool, tp, middle) <= deadline:
            low = middle
        else:
            high = middle - 1
    return low


def quickest(ctx, order):
    """The fastest plan."""
    floor = least_time(ctx)
    target = 2 * floor
    plan = []
    while not plan and target < 1e6:
        target *= 1.6
        plan = pack(ctx, target, {}, order, order, 0.2, 0.3)
    if not plan:
        return plan
    return bisected(ctx, plan, max(floor, target / 3.2 if target > 3.3 * floor else floor), {}, order, order, 8, 0.25)


def heaviest(ctx, index):
    """Seconds to move this model on the slowest type."""
    return max([ctx.toolkit.transfer_time(m, pool) for m in ctx.models if m.index == index for pool in ctx.gpus], default=0.0)


def bisected(ctx, plan, low, old, leave, go, rounds, seconds):
    """The plan of least deadline between `low` and the makespan of `plan`, by halving on a logarithmic scale."""
    high = ctx.toolkit.makespan(plan)
    for _ in range(rounds):
        if high < low * 1.004:
            break
        middle = math.sqrt(low * high)
        other = pack(ctx, middle, old, leave, go, seconds, 0.3)
        if other and ctx.toolkit.makespan(other) < high:
            plan, high = other, ctx.toolkit.makespan(other)
        else:
            low = middle
    return plan


def rooms(ctx):
    return {pool.type: min(pool.count, pool.quota or pool.count) for pool in ctx.gpus}


def counts(plan):
    """How many replicas there are of each (model, type, tp)."""
    old = {}
    for e in plan:
        key = (e.model, e.gpu, e.tp)
        old[key] = old.get(key, 0) + e.count
    return old


def similar(ctx, models):
    """Whether the load is much like the one of `models`."""
    then = {m.index: m for m in models}
    for m in ctx.models:
        if m.index not in then:
            return False
        work = m.concurrency * m.output_tokens
        before = then[m.index].concurrency * then[m.index].output_tokens
        if abs(work - before) > 0.35 * max(work, before):
            return False
    return True


def same_fleet(ctx, gpus):
    had = {pool.type: pool.count for pool in gpus}
    return all(had.get(pool.type, -1) == pool.count for pool in ctx.gpus)




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


def pack(ctx, deadline, old, leave, go, seconds, gap):
    """A plan that meets the deadline, empty if there is none; fractional counts are tried first."""
    if not program_of(ctx, deadline, old, leave, go, seconds, gap, False):
        return []
    return program_of(ctx, deadline, old, leave, go, seconds, gap, True)


def program_of(ctx, deadline, old, leave, go, seconds, gap, whole):
    """A plan that meets the deadline, by a small integer program; empty if there is none. Not `whole`: just whether there may be.

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
    return built(chosen, x) if whole else [1]


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


def fits(ctx):
    """Whether the plan in force still has its GPUs."""
    return all(ctx.toolkit.gpus_used(ctx.plan, pool) <= pool.count for pool in ctx.gpus)
