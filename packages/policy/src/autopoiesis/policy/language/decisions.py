"""Are a policy's answers ones that the dispatcher and the planner can carry out? One answer for live and simulated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from autopoiesis.policy.api import HOLD, REJECT, Assign, PlanContext, Replicas, RouteDecision
from autopoiesis.policy.language.errors import InvalidDecision

_PRIORITY_LIMIT: Final = 2**31
_ROLES: Final = ("mixed", "prefill", "decode")


def described(value: object) -> str:
    """A value in a message, without letting a huge one be printed."""
    if value is None or isinstance(value, bool | float):
        return repr(value)
    if isinstance(value, int):
        return repr(value) if value.bit_length() <= 64 else "a huge integer"
    return repr(value) if isinstance(value, str) and len(value) <= 40 else f"a {type(value).__name__}"


def check_route(decision: Any, replicas: int) -> RouteDecision:
    """Return `decision` if it names existing replicas.

    Raises:
        InvalidDecision: not Assign, HOLD or REJECT, an index out of range, or a field of the wrong type.
    """
    if decision is HOLD or decision is REJECT:
        return decision
    if type(decision) is not Assign:
        raise InvalidDecision(
            f"route returned {described(decision)}; it returns Assign(index), HOLD or REJECT"
        )
    chosen, decode, priority = decision.replica, decision.decode, decision.priority
    if type(chosen) is not int or not 0 <= chosen < replicas:
        raise InvalidDecision(
            f"Assign.replica is {described(chosen)}; it is an index from 0 to {replicas - 1}"
        )
    if type(decode) is not int or not -1 <= decode < replicas:
        raise InvalidDecision(
            f"Assign.decode is {described(decode)}; it is -1 or an index from 0 to {replicas - 1}"
        )
    if priority is not None and (
        type(priority) is not int or not -_PRIORITY_LIMIT <= priority < _PRIORITY_LIMIT
    ):
        raise InvalidDecision(
            f"Assign.priority is {described(priority)}; it is an integer of at most 32 bits, or left out"
        )
    return decision


def check_priority(value: Any) -> float:
    """Return `value` as a finite float.

    Raises:
        InvalidDecision: not a number, or not finite.
    """
    if type(value) is float and math.isfinite(value):
        return value
    if type(value) is int and value.bit_length() <= 63:
        return float(value)
    raise InvalidDecision(f"prioritize returned {described(value)}; it returns a finite number")


def check_reschedule(value: Any) -> bool:
    """Return `value` if it is a bool; raises InvalidDecision otherwise."""
    if type(value) is not bool:
        raise InvalidDecision(f"should_reschedule returned {described(value)}; it returns True or False")
    return value


def check_plan(value: Any, ctx: PlanContext) -> tuple[Replicas, ...]:
    """Return the plan as a tuple if the fleet of `ctx` can carry it out.

    Raises:
        InvalidDecision: as `check_entries`, or more GPUs than there are or the quota allows, or a number of replicas outside
            of a model's bounds, or no replica at all although there is demand.
    """
    plan = check_entries(value, ctx)
    waiting = next((model for model in ctx.models if model.concurrency), None)
    if waiting is not None and not any(entry.count for entry in plan):
        raise InvalidDecision(f"the plan leaves {waiting.name} unserved: it has no replica at all")
    for pool in ctx.gpus:
        used = sum(entry.tp * entry.count for entry in plan if entry.gpu == pool.type)
        most = min(pool.count, pool.quota) if pool.quota else pool.count
        if used > most:
            raise InvalidDecision(
                f"the plan takes {described(used)} GPUs of type {pool.type}; it may take {most}"
            )
    for model in ctx.models:
        count = sum(entry.count for entry in plan if entry.model == model.index)
        if count < model.min_replicas or count > (model.max_replicas or count):
            most_words = str(model.max_replicas) if model.max_replicas else "any number"
            raise InvalidDecision(
                f"the plan has {described(count)} replicas of model {model.index}; it has {model.min_replicas} to {most_words}"
            )
    return plan


def check_entries(value: Any, ctx: PlanContext, *, any_gpu: bool = False) -> tuple[Replicas, ...]:
    """Return a list of `Replicas` as a tuple; it need not fit the fleet. `any_gpu`: types that left the fleet are fine.

    Raises:
        InvalidDecision: not a list of Replicas, an unknown model or GPU type, or a field of the wrong type or range.
    """
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise InvalidDecision(f"a plan is a list of Replicas, not {described(value)}")
    gpus = None if any_gpu else {pool.type for pool in ctx.gpus}
    for position, entry in enumerate(value):
        if type(entry) is not Replicas:
            raise InvalidDecision(
                f"entry {position} of the plan is {described(entry)}; it is a Replicas(...)"
            )
        for problem in _entry_problems(entry, len(ctx.models), gpus):
            raise InvalidDecision(f"entry {position} of the plan: {problem}")
    return tuple(value)


def _entry_problems(entry: Replicas, models: int, gpus: set[str] | None) -> list[str]:
    problems = []
    if type(entry.model) is not int or not 0 <= entry.model < models:
        problems.append(f"model is {described(entry.model)}; it is an index from 0 to {models - 1}")
    if type(entry.gpu) is not str or (gpus is not None and entry.gpu not in gpus):
        problems.append(f"gpu is {described(entry.gpu)}; it is one of {', '.join(sorted(gpus or ()))}")
    for name, least in (("tp", 1), ("count", 0), ("batch", 0)):
        number = getattr(entry, name)
        if type(number) is not int or not least <= number < _PRIORITY_LIMIT:
            problems.append(f"{name} is {described(number)}; it is an integer, at least {least}")
    if type(entry.role) is not str or entry.role not in _ROLES:
        problems.append(f"role is {described(entry.role)}; it is one of {', '.join(_ROLES)}")
    share = entry.share
    if type(share) not in {int, float} or not 0 <= share < math.inf:
        problems.append(f"share is {described(share)}; it is a finite number, at least 0")
    return problems
