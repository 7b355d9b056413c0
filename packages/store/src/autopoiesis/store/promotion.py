"""Activations together with the events that tell of them, in the caller's transaction."""

from autopoiesis.contracts.messages.policy import Activation, Kind
from autopoiesis.contracts.subjects import PROMOTED, ROLLED_BACK, Subject, slug
from autopoiesis.store.repositories.activations import Standing
from autopoiesis.store.unit import Unit


async def promote(
    unit: Unit,
    scope: str,
    kind: Kind,
    hash_: str,
    *,
    expected: str | None,
    cause: str,
    evaluation: int | None = None,
) -> Activation:
    """Put `hash_` in force if the policy `expected` is in force now (None: if nothing is).

    Raises StaleError otherwise, NotFoundError if the store has no such policy.
    """
    standing = await unit.activations.activate(
        scope, kind, hash_, expected=expected, cause=cause, evaluation=evaluation
    )
    return await _announce(unit, standing)


async def roll_back(
    unit: Unit, scope: str, kind: Kind, *, cause: str, expected_epoch: int | None = None
) -> Activation:
    """Put the policy before the one in force back in force; see `Activations.roll_back`."""
    standing = await unit.activations.roll_back(scope, kind, cause=cause, expected_epoch=expected_epoch)
    return await _announce(unit, standing)


def subject_of(standing: Standing) -> Subject[Activation]:
    """Where an activation is announced."""
    return ROLLED_BACK if standing.activation.rollback else PROMOTED


async def _announce(unit: Unit, standing: Standing) -> Activation:
    message = standing.message
    await unit.outbox.add(subject_of(standing), message, scope=slug(message.scope), kind=message.kind)
    return message
