"""Greedy over calls, in the order of workflows: each goes where it ends first, after what was given to that instance before.

The "greedy" of the paper's agentic case (Autopoiesis, arXiv 2604.07144, Section 8.3), which gives no code: list scheduling by what
calls take alone. That decode instances serve many calls at once, and what is cached where, is not in it. Queues first come, first served.
"""

API = 1


def should_reschedule(ctx):
    return True


def schedule(ctx):
    busy = {pool.type: 0.0 for pool in ctx.gpus}
    plan = []
    for model in ctx.models:
        if model.concurrency:
            for role in ("prefill", "decode"):
                best, soonest = None, math.inf
                for pool in ctx.gpus:
                    if pool.type.startswith(role):
                        ends = busy[pool.type] + alone(ctx, model, pool, role)
                        if ends < soonest:
                            best, soonest = pool.type, ends
                busy[best] = soonest
                plan.append(Replicas(model.index, best, 1, 1, 0, role, 1.0 * model.index))
    return plan


def alone(ctx, model, pool, role):
    if role == "prefill":
        return ctx.toolkit.latency(model, pool, 1, 1) - ctx.toolkit.decode_time(model, pool, 1, 1)
    return ctx.toolkit.decode_time(model, pool, 1, 1)
