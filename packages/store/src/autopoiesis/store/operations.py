"""What an operator does by hand and looks at: the functions behind the command line."""

from collections.abc import Sequence
from dataclasses import dataclass

from autopoiesis.contracts.messages.policy import Activation, Kind
from autopoiesis.store import models, promotion
from autopoiesis.store.engine import Store
from autopoiesis.store.models import Control, Evaluation, Policy
from autopoiesis.store.repositories.activations import Standing
from autopoiesis.store.repositories.control import Mode


@dataclass(frozen=True, slots=True)
class Shown:
    """One policy and all that is known of it."""

    policy: Policy
    evaluations: Sequence[Evaluation]
    """Newest first."""
    in_force: Sequence[Standing]
    """Where it is active now."""


@dataclass(frozen=True, slots=True)
class Entered:
    """One line of the history: what came into force, and the judgement it rests on (none for operators' actions)."""

    activation: models.Activation
    policy: Policy
    evaluation: Evaluation | None


@dataclass(frozen=True, slots=True)
class Listed:
    """One policy and the last judgement of it, if any."""

    policy: Policy
    evaluation: Evaluation | None


async def promote(store: Store, scope: str, kind: Kind | None, prefix: str, cause: str) -> Activation:
    """Put the policy whose hash begins with `prefix` in force, whatever is in force now. `kind` None: the policy's own.

    Raises NotFoundError if no policy, or more than one, fits; StaleError if another promotion came between.
    """
    async with store.begin() as unit:
        policy = await unit.policies.find(prefix)
        its: Kind = kind or ("plan" if policy.kind == "plan" else "dispatch")
        current = await unit.activations.current(scope, its)
        expected = current.policy.hash if current else None
        return await promotion.promote(
            unit, scope, its, policy.hash, expected=expected, cause=f"operator: {cause}"
        )


async def rollback(store: Store, scope: str, kind: Kind, cause: str = "by hand") -> Activation:
    """Put the policy before the one in force back in force. Raises NotFoundError if there is none."""
    async with store.begin() as unit:
        return await promotion.roll_back(unit, scope, kind, cause=f"rollback: operator: {cause}")


async def set_mode(store: Store, scope: str, mode: Mode, cause: str = "") -> None:
    """Override the configured mode of `scope` (`*`: every scope)."""
    async with store.begin() as unit:
        await unit.controls.set(scope, mode, cause=cause)


async def clear_mode(store: Store, scope: str) -> None:
    """Back to the configured mode."""
    async with store.begin() as unit:
        await unit.controls.clear(scope)


async def modes(store: Store) -> Sequence[Control]:
    """The overrides in force."""
    async with store.begin() as unit:
        return await unit.controls.all()


async def policies(
    store: Store, *, kind: Kind | None = None, judged: bool = False, limit: int = 50
) -> Sequence[Listed]:
    """Newest first; with `judged` only those that an evaluator spoke on."""
    async with store.begin() as unit:
        found = await unit.policies.recent(kind=kind, judged=judged, limit=limit)
        evaluations = await unit.evaluations.newest([policy.hash for policy in found])
    return [Listed(policy, evaluations.get(policy.hash)) for policy in found]


async def in_force(store: Store) -> Sequence[Standing]:
    """What is active, per (scope, kind)."""
    async with store.begin() as unit:
        return await unit.activations.in_force()


async def history(
    store: Store, scope: str | None = None, kind: Kind | None = None, *, limit: int = 50
) -> Sequence[Entered]:
    """What came into force and why, newest first; None stands for every scope or kind."""
    async with store.begin() as unit:
        standings = await unit.activations.history(scope, kind, limit=limit)
        rests_on = [number for s in standings if (number := s.activation.evaluation) is not None]
        evaluations = await unit.evaluations.by_id(rests_on)
    return [Entered(s.activation, s.policy, evaluations.get(s.activation.evaluation or 0)) for s in standings]


async def show(store: Store, prefix: str) -> Shown:
    """One policy by the beginning of its hash. Raises NotFoundError if none fits, or more than one."""
    async with store.begin() as unit:
        policy = await unit.policies.find(prefix)
        evaluations = await unit.evaluations.of(policy.hash)
        active = [
            standing for standing in await unit.activations.in_force() if standing.policy.hash == policy.hash
        ]
        return Shown(policy, evaluations, active)
