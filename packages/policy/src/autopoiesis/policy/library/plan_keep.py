"""Keep what runs: the plan in force, never another one.

What the planner falls back to, and what it does until a plan policy is made active. Source: ours; the
static deployment of every comparison.
"""

API = 1


def should_reschedule(ctx):
    return False


def schedule(ctx):
    return list(ctx.plan or ())
