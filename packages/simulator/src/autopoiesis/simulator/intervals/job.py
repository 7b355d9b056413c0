"""A plan policy on a trace as a job for the jail: bytes in, bytes out.

What comes back is decisions and processor seconds. `decided` reads them outside; `world.account` re-checks and prices them there.
"""

from __future__ import annotations

from statistics import median

import msgspec

from autopoiesis.policy.language import compile_policy
from autopoiesis.simulator.intervals.cost import Assumptions, CostModel
from autopoiesis.simulator.intervals.traces import PlanTrace
from autopoiesis.simulator.intervals.world import Decision, PlanRejectedError, decide


class PlanJob(msgspec.Struct, frozen=True, kw_only=True):
    """One policy on one trace, `repeats` times; scheduling seconds are the medians."""

    policy: str
    trace: PlanTrace
    assumptions: Assumptions = msgspec.field(default_factory=Assumptions)
    repeats: int = 1
    seed: int = 0


class PlanResult(msgspec.Struct, frozen=True, kw_only=True):
    decisions: tuple[Decision, ...] = ()
    rejected: str = ""
    """Why the policy broke or its plan cannot be carried out; empty if all went well."""


def run(payload: bytes) -> bytes:
    """`PlanJob` to `PlanResult`, both MessagePack. A policy that does not compile raises VerificationError."""
    job = msgspec.msgpack.decode(payload, type=PlanJob)
    policy = compile_policy(job.policy, "plan")
    try:
        runs = [
            decide(policy, job.trace, CostModel(job.assumptions), seed=job.seed) for _ in range(job.repeats)
        ]
    except PlanRejectedError as error:
        return msgspec.msgpack.encode(PlanResult(rejected=str(error)))
    return msgspec.msgpack.encode(PlanResult(decisions=tuple(map(_middle, zip(*runs, strict=True)))))


def decided(payload: bytes) -> tuple[Decision, ...]:
    """The decisions in a result. Raises PlanRejectedError with the job's own words, or for bytes that are no result."""
    try:
        result = msgspec.msgpack.decode(payload, type=PlanResult)
    except msgspec.DecodeError as error:
        raise PlanRejectedError(f"not a result: {error}") from None
    if result.rejected:
        raise PlanRejectedError(result.rejected)
    return result.decisions


def _middle(same: tuple[Decision, ...]) -> Decision:
    """One step of several runs. Raises PlanRejectedError where they differ: scores of such a policy would mean nothing."""
    if any((d.plan, d.rescheduled) != (same[0].plan, same[0].rescheduled) for d in same):
        raise PlanRejectedError("the same policy decided differently on the same trace")
    return msgspec.structs.replace(same[0], scheduling_s=median(d.scheduling_s for d in same))
