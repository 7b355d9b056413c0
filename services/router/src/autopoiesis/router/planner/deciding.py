"""Asks a plan policy, in the jail, and believes nothing that comes back before it is checked."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Final

from autopoiesis.policy.api import PlanContext, Replicas
from autopoiesis.policy.jail import Jail, JailError, Job, Limits
from autopoiesis.policy.language import InvalidDecision
from autopoiesis.policy.language.decisions import check_plan
from autopoiesis.policy.states import StateError, plan_data, plan_of

JOB: Final = "autopoiesis.simulator.plan_step"
"""Imported by the jail's zygote alone: the cost model and the solver stay out of this process."""


class PlanFaultError(Exception):
    """The policy broke, took too long, or its plan cannot be carried out. `line` is 0 where none is known."""

    def __init__(self, what: str, line: int = 0) -> None:
        super().__init__(what)
        self.line = line


@dataclass(frozen=True, slots=True)
class Decision:
    """`plan` is None where the policy did not want to reschedule. `cpu_s`: processor seconds it took."""

    plan: tuple[Replicas, ...] | None
    cpu_s: float


class Decider:
    """One step at a time; at most `schedule_s` seconds each."""

    def __init__(self, schedule_s: float, *, seed: int = 0) -> None:
        self._jail = Jail((JOB,), workers=1, limits=Limits(wall_s=schedule_s, cpu_s=schedule_s))
        self._seed = seed

    async def decide(self, policy: str, ctx: PlanContext) -> Decision:
        """What `policy`, its source, wants at `ctx`. Raises PlanFaultError."""
        payload = json.dumps({"policy": policy, "state": plan_data(ctx), "seed": self._seed}).encode()
        await asyncio.to_thread(self._jail.start)
        try:
            result: bytes = await asyncio.wrap_future(self._jail.submit(Job(f"{JOB}:run", payload)))
        except JailError as error:
            raise PlanFaultError(
                f"{type(error).__name__}: {error.detail.strip().splitlines()[-1]}"
            ) from error
        answer = json.loads(result)
        if answer["fault"]:
            raise PlanFaultError(answer["fault"], answer["line"])
        if not answer["rescheduled"]:
            return Decision(None, answer["cpu_s"])
        try:
            return Decision(check_plan(plan_of(answer["plan"]), ctx), answer["cpu_s"])
        except (StateError, InvalidDecision) as error:
            raise PlanFaultError(f"{type(error).__name__}: {error}") from error

    async def close(self) -> None:
        await asyncio.to_thread(self._jail.close)
