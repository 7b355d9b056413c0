"""List scheduling of calls: read where the end is earliest, write where it disturbs least.

Readers get calls by earliest end (caches known), queues read the longest answers first; writers get the most critical call first,
where the latest end among its companions stays least. No integer program, so scheduling takes milliseconds.
"""

API = 1

SLOW = 0.5
LEAN = 0.05
FEW = 2
TIGHT = 0.99
SLOWEST = 0.5
MOVE = 0.012
CAREFUL = 30
ASK = 400


def should_reschedule(ctx):
    return True


def schedule(ctx):
    calls = [model for model in ctx.models if model.concurrency]
    if not calls:
        return []
    readers = [pool for pool in ctx.gpus if pool.type.startswith("prefill")]
    writers = [pool for pool in ctx.gpus if pool.type.startswith("decode")]
    first = calls[0]
    top = max(writers, key=lambda pool: pool.bandwidth)
    token = 2 * first.layers * first.kv_heads * first.head_dim * first.dtype_bytes
    sizes = [token * (m.prompt_tokens + 0.5 * m.output_tokens) for m in calls]
    outs = [max(1, m.output_tokens) for m in calls]
    scale = ctx.toolkit.decode_time(first, top, 1, 1) / (outs[0] * (first.weight_bytes + sizes[0]) / top.bandwidth)
    tail = [scale * out * (first.weight_bytes + size) / top.bandwidth for out, size in zip(outs, sizes)]
    if ctx.plan is None:
        at, time = spread(ctx, calls, readers, tail)
    else:
        at, time = kept(ctx, calls, readers, tail)
    clock = [0.0 for _ in readers]
    rank = [0.0 for _ in calls]
    ready = [0.0 for _ in calls]
    for place, i in enumerate(sorted(range(len(calls)), key=lambda i: -tail[i])):
        clock[at[i]] += time[i]
        ready[i] = clock[at[i]]
        rank[i] = 1.0 * place
    rates = [scale / pool.bandwidth for pool in writers]
    latest = [0.0 for _ in writers]
    held = [1.0 * first.weight_bytes for _ in writers]
    plan = []
    done = 0
    for i in sorted(range(len(calls)), key=lambda i: -(ready[i] + tail[i])):
        out, size, start = outs[i], sizes[i], ready[i]
        best, least = 0, math.inf
        if done < CAREFUL:
            for j, rate in enumerate(rates):
                mine = start + out * rate * (held[j] + size)
                worst = max(mine, latest[j] + out * rate * size) + LEAN * mine
                if worst < least:
                    best, least = j, worst
        else:
            for j, end in enumerate(latest):
                if end < least:
                    best, least = j, end
        done += 1
        mine = start + out * rates[best] * (held[best] + size)
        latest[best] = max(mine, latest[best] + out * rates[best] * size if latest[best] > 0 else 0.0)
        held[best] += size
        plan.append(Replicas(calls[i].index, writers[best].type, 1, 1, 0, "decode", rank[i]))
        plan.append(Replicas(calls[i].index, readers[at[i]].type, 1, 1, 0, "prefill", rank[i]))
    return plan


def spread(ctx, calls, readers, tail):
    """Cold start: the longest calls first, each to the reader where it ends first; one estimate per kind of reader."""
    fast = max(pool.bandwidth for pool in readers)
    usable = [j for j, pool in enumerate(readers) if pool.bandwidth >= 0.6 * fast]
    kind = {}
    for j, pool in enumerate(readers):
        kind.setdefault(pool.bandwidth, j)
    rows = []
    for model in calls:
        rows.append({speed: ctx.toolkit.prefill_time(model, readers[kind[speed]], 1, 1) for speed in kind})
    speed_of = [pool.bandwidth for pool in readers]
    load = [0.0 for _ in readers]
    at = [0 for _ in calls]
    time = [0.0 for _ in calls]
    total = sum(row[fast] for row in rows)
    goal = total / sum(total / sum(row[speed] for row in rows) for speed in [pool.bandwidth for pool in readers])
    goal = max(goal, max(tail[i] + rows[i][fast] for i in range(len(calls))))
    sent = {}
    order = sorted(range(len(calls)), key=lambda i: -(tail[i] + rows[i][fast]))
    for j, pool in enumerate(readers):
        if pool.bandwidth < 0.6 * fast:
            number = 0
            for i in order:
                cost = rows[i][pool.bandwidth]
                if i not in sent and number < FEW and load[j] + cost + tail[i] < TIGHT * goal:
                    sent[i] = j
                    load[j] += cost
                    at[i] = j
                    time[i] = cost
                    number += 1
    for i in order:
        if i in sent:
            continue
        row = rows[i]
        best, least = 0, math.inf
        for j in usable:
            end = load[j] + row[speed_of[j]]
            if end < least:
                best, least = j, end
        load[best] = least
        at[i] = best
        time[i] = row[speed_of[best]]
    return at, time


def kept(ctx, calls, readers, tail):
    """Later rounds: where the context is cached, unless an idler fast reader ends the call earlier by far."""
    number = {pool.type: j for j, pool in enumerate(readers)}
    home = {e.model: number[e.gpu] for e in ctx.plan if e.role == "prefill" and e.gpu in number}
    fast = max(pool.bandwidth for pool in readers)
    quick = [j for j, pool in enumerate(readers) if pool.bandwidth >= 0.65 * fast]
    load = [0.0 for _ in readers]
    at = [home.get(model.index, quick[0]) for model in calls]
    before = {m.index: m.prompt_tokens for m in ctx.last.models}
    fresh = [m.prompt_tokens - before.get(m.index, 0) for m in calls]
    low = min(range(len(calls)), key=lambda i: abs(fresh[i] - 40))
    base = ctx.toolkit.prefill_time(calls[low], readers[at[low]], 1, 1)
    time = [
        base * (1.0 + 0.002 * new) if new < ASK else ctx.toolkit.prefill_time(model, readers[j], 1, 1)
        for model, j, new in zip(calls, at, fresh)
    ]
    for i in sorted(range(len(calls)), key=lambda i: -(tail[i] + time[i])):
        here = at[i]
        if load[here] + time[i] > MOVE:
            other = min(quick, key=lambda j: load[j])
            if other != here and load[other] + MOVE < load[here] + time[i]:
                there = ctx.toolkit.prefill_time(calls[i], readers[other], 1, 1)
                if load[other] + there + 0.5 * MOVE < load[here] + time[i]:
                    at[i] = other
                    time[i] = there
        load[at[i]] += time[i]
    return at, time


def scheduled_before(ctx):
    calls = [model for model in ctx.models if model.concurrency]
    if not calls:
        return []
    readers = [pool for pool in ctx.gpus if pool.type.startswith("prefill")]
    writers = [pool for pool in ctx.gpus if pool.type.startswith("decode")]
    solo, extra = writing(ctx, calls, writers)
    tail = [min(row) for row in solo]
    at, rank, ready = reading(ctx, calls, readers, tail)
    to = decoded(calls, writers, solo, extra, ready)
    plan = []
    for i, model in enumerate(calls):
        plan.append(Replicas(model.index, readers[at[i]].type, 1, 1, 0, "prefill", rank[i]))
        plan.append(Replicas(model.index, writers[to[i]].type, 1, 1, 0, "decode", rank[i]))
    return plan


def writing(ctx, calls, writers):
    """Per call and writer: seconds by itself, and what its context adds to every step of a companion."""
    solo, extra = [], []
    for model in calls:
        seen = {}
        one, more = [], []
        for pool in writers:
            key = (pool.bandwidth, pool.memory_bytes)
            if key not in seen:
                first = ctx.toolkit.decode_time(model, pool, 1, 1)
                second = ctx.toolkit.decode_time(model, pool, 1, 2)
                step = (second - first) / max(1, model.output_tokens) if second < math.inf else first
                seen[key] = (first, max(step, 0.0))
            one.append(seen[key][0])
            more.append(seen[key][1])
        solo.append(one)
        extra.append(more)
    return solo, extra


def reading(ctx, calls, readers, tail):
    """Reader, place in its queue and end of reading of every call: earliest end first come, longest answer read first."""
    fast = max(pool.peak_flops for pool in readers)
    usable = [j for j, pool in enumerate(readers) if ctx.plan is not None or pool.peak_flops >= 0.5 * fast]
    home = {e.model: e.gpu for e in ctx.plan or () if e.role == "prefill"}
    time = []
    for model in calls:
        held = home.get(model.index, "")
        if held:
            time.append([ctx.toolkit.prefill_time(model, pool, 1, 1) if pool.type == held else math.inf for pool in readers])
        else:
            time.append([ctx.toolkit.prefill_time(model, readers[j], 1, 1) if j in usable else math.inf for j in range(len(readers))])
    best = [min(row) for row in time]
    order = sorted(range(len(calls)), key=lambda i: -(tail[i] + best[i]))
    load = [0.0 for _ in readers]
    at = [0 for _ in calls]
    for i in order:
        row = time[i]
        j = min(usable, key=lambda k: load[k] + row[k])
        load[j] += row[j]
        at[i] = j
    rank = [0.0 for _ in calls]
    ready = [0.0 for _ in calls]
    clock = [0.0 for _ in readers]
    place = 0.0
    for i in sorted(range(len(calls)), key=lambda i: -tail[i]):
        clock[at[i]] += time[i][at[i]]
        ready[i] = clock[at[i]]
        rank[i] = place
        place += 1.0
    return at, rank, ready


def decoded(calls, writers, solo, extra, ready):
    """Writer of every call, the most critical first, where the latest end of the writer's calls stays least."""
    order = sorted(range(len(calls)), key=lambda i: -(ready[i] + min(solo[i])))
    members = [[] for _ in writers]
    ends = {}
    to = [0 for _ in calls]
    for i in order:
        out = calls[i].output_tokens
        best, least, own = 0, math.inf, 0.0
        for j in range(len(writers)):
            end = ready[i] + solo[i][j]
            worst = 0.0
            for k in members[j]:
                shared = min(out, calls[k].output_tokens)
                end += extra[k][j] * shared
                worst = max(worst, ends[k] + extra[i][j] * shared)
            worst = max(worst, end) + 0.02 * end
            if worst < least:
                best, least, own = j, worst, end
        for k in members[best]:
            ends[k] += extra[i][best] * min(out, calls[k].output_tokens)
        members[best].append(i)
        ends[i] = own
        to[i] = best
    return to
