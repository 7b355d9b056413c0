"""A monitoring step as a record: plan policies are written from such records, and judged on them."""

from __future__ import annotations

import time
from collections.abc import Mapping

from autopoiesis.contracts.messages.fleet import ModelLoad, PlannedReplicas, PlanObserved, PlanRules
from autopoiesis.policy.api import PlanContext
from autopoiesis.router.planner.placement import Kind


def observed(
    ctx: PlanContext, plan: Mapping[Kind, int], *, scope: str, policy: str, epoch: int, rules: PlanRules
) -> PlanObserved:
    """What `policy` could see in `ctx`, with `plan` in force."""
    return PlanObserved(
        scope=scope,
        step=ctx.step,
        at_unix_s=time.time(),
        policy=policy,
        epoch=epoch,
        gpus={pool.type: pool.count for pool in ctx.gpus},
        demand={
            model.name: ModelLoad(
                concurrency=model.concurrency,
                arrival_rate=model.arrival_rate,
                prompt_tokens=model.prompt_tokens,
                output_tokens=model.output_tokens,
            )
            for model in ctx.models
        },
        plan=tuple(
            PlannedReplicas(model=kind.model, gpu=kind.gpu, tp=kind.tp, count=count, role=kind.role)
            for kind, count in plan.items()
        ),
        rules=rules,
    )
