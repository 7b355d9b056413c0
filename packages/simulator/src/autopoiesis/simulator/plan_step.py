"""One monitoring step of a plan policy as a job for the jail: bytes in, bytes out.

Whoever asks knows names and counts; what models and GPUs are is filled in here, where the cost model is. Nothing that comes back is
believed: `autopoiesis.policy.language.decisions.check_plan` is to be applied outside.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import Any

from autopoiesis.policy.api import GpuPool, ModelDemand, PlanContext
from autopoiesis.policy.language import CompiledPolicy, PolicyError, compile_policy
from autopoiesis.policy.states import fields_of, plan_state
from autopoiesis.simulator import models
from autopoiesis.simulator.intervals.cost import Assumptions, CostModel
from autopoiesis.simulator.intervals.traces import demand, pool, pool_of
from autopoiesis.simulator.toolkit import CostToolkit

ASSUMPTIONS = Assumptions(check_kv=True)
"""A live fleet has to hold its KV cache."""


def run(payload: bytes) -> bytes:
    """JSON `{"policy", "state", "fuel", "seed"}` to JSON `{"rescheduled", "plan", "fuel", "cpu_s", "fault", "line"}`.

    A policy's fault is an answer: its text and line. Raises ValueError for an unknown model or GPU type, StateError for
    data that is no state.
    """
    job = json.loads(payload)
    ctx = plan_state(job["state"])
    complete(ctx)
    started = time.process_time()
    answer: dict[str, Any] = {"rescheduled": False, "plan": None, "fault": "", "line": 0}
    policy: CompiledPolicy | None = None
    try:
        policy = compile_policy(job["policy"], "plan", fuel=job.get("fuel"))
        answer.update(decide(policy, ctx, seed=job.get("seed", 0)))
    except PolicyError as error:
        answer.update(fault=f"{type(error).__name__}: {error}", line=getattr(error, "line", 0))
    answer.update(fuel=policy.fuel_used if policy else 0, cpu_s=time.process_time() - started)
    return json.dumps(answer).encode()


def decide(policy: CompiledPolicy, ctx: PlanContext, *, seed: int = 0) -> dict[str, Any]:
    """Ask `should_reschedule`, then `schedule`. Raises PolicyError."""
    ctx.toolkit = CostToolkit(ctx, CostModel(ASSUMPTIONS), seed=seed)
    if not policy.should_reschedule(ctx):
        return {"rescheduled": False}
    return {"rescheduled": True, "plan": [asdict(entry) for entry in policy.schedule(ctx)]}


def complete(ctx: PlanContext) -> None:
    """Fill what is not given (0) of models by name and of GPU pools by type, in earlier steps too.

    Raises:
        ValueError: an unknown model or GPU type of which not everything is given.
    """
    for seen in (ctx, *((ctx.last,) if ctx.last else ()), *ctx.history):
        for model in seen.models:
            if not model.layers:
                _fill(model, demand(model.index, models.model(model.name), None))
        for gpu in seen.gpus:
            if not gpu.peak_flops:
                _fill(gpu, pool(pool_of(gpu.type), gpu.count))


def _fill(view: ModelDemand | GpuPool, known: ModelDemand | GpuPool) -> None:
    for name, value in fields_of(known).items():
        if not getattr(view, name):
            setattr(view, name, value)
