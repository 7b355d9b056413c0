"""DistServe as the paper uses it: separate prefill and decode replicas, the best configuration searched again at each phase.

After arXiv 2401.09670: one parallelism for all prefill replicas, one for all decode replicas, and how many of each, by
enumeration over the homogeneous cluster; no regard to what moving costs.
"""

API = 1


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
    model, pool = ctx.models[0], ctx.gpus[0]
    best, least = [], math.inf
    for first in ctx.toolkit.degrees(model, pool):
        for second in ctx.toolkit.degrees(model, pool):
            for prefill in range(1, pool.count // first + 1):
                decode = (pool.count - prefill * first) // second
                if decode:
                    plan = [
                        Replicas(model.index, pool.type, first, prefill, 0, "prefill"),
                        Replicas(model.index, pool.type, second, decode, 0, "decode"),
                    ]
                    seconds = ctx.toolkit.serve_time(model, plan)
                    if seconds < least:
                        best, least = plan, seconds
    return best
