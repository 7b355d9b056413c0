"""List scheduling of calls in a few milliseconds: stay where the context is cached, write where it disturbs least.

The cold start gives each call to the reader where it ends first; later rounds keep caches but for far idler readers. Writers are
chosen by closed form (weights and contexts read per step), the most critical call first; queues read the longest answers first.
"""

API = 1

LEAN = 0.02
SLOWEST = 0.5
MOVE = 0.02
CAREFUL = 40


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
    usable = [j for j, pool in enumerate(readers) if pool.bandwidth >= SLOWEST * fast]
    kind = {}
    for j in usable:
        kind.setdefault(readers[j].bandwidth, j)
    rows = []
    for model in calls:
        rows.append({speed: ctx.toolkit.prefill_time(model, readers[kind[speed]], 1, 1) for speed in kind})
    speed_of = [pool.bandwidth for pool in readers]
    load = [0.0 for _ in readers]
    at = [0 for _ in calls]
    time = [0.0 for _ in calls]
    for i in sorted(range(len(calls)), key=lambda i: -(tail[i] + rows[i][fast])):
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
    time = [ctx.toolkit.prefill_time(model, readers[j], 1, 1) for model, j in zip(calls, at)]
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
