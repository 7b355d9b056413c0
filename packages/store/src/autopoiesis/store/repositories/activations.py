from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Select, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from autopoiesis.contracts.messages import policy as messages
from autopoiesis.contracts.messages.policy import Kind
from autopoiesis.store.errors import NotFoundError, StaleError
from autopoiesis.store.models import EPOCHS, Activation, Active, Policy


@dataclass(frozen=True, slots=True)
class Standing:
    """An activation with its policy."""

    activation: Activation
    policy: Policy

    @property
    def message(self) -> messages.Activation:
        row = self.activation
        kind: Kind = "plan" if row.kind == "plan" else "dispatch"
        return messages.Activation(
            scope=row.scope,
            kind=kind,
            epoch=row.epoch,
            hash=row.hash,
            source=self.policy.source,
            api=self.policy.api,
            cause=row.cause,
            at_unix_s=row.created.timestamp(),
            name=self.policy.title,
        )


class Activations:
    """The history and what is in force. Only `activate` and `roll_back` move it; neither tells anybody (see `promotion`)."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def current(self, scope: str, kind: Kind) -> Standing | None:
        """What is in force, none if nothing ever was."""
        statement = _standing().join(Active, Active.epoch == Activation.epoch)
        return await self._one(statement.where(Active.scope == scope, Active.kind == kind))

    async def in_force(self) -> Sequence[Standing]:
        """Of every (scope, kind), in epoch order."""
        statement = _standing().join(Active, Active.epoch == Activation.epoch).order_by(Activation.epoch)
        return [Standing(activation, policy) for activation, policy in await self._session.execute(statement)]

    async def history(self, scope: str | None, kind: Kind | None, *, limit: int = 50) -> Sequence[Standing]:
        """Newest first; None stands for every scope or kind."""
        statement = _standing().order_by(Activation.epoch.desc()).limit(limit)
        if scope is not None:
            statement = statement.where(Activation.scope == scope)
        if kind is not None:
            statement = statement.where(Activation.kind == kind)
        rows = await self._session.execute(statement)
        return [Standing(activation, policy) for activation, policy in rows]

    async def activate(
        self,
        scope: str,
        kind: Kind,
        hash_: str,
        *,
        expected: str | None,
        cause: str,
        evaluation: int | None = None,
    ) -> Standing:
        """Put `hash_` in force if `expected` (a hash, None for nothing) is what is in force now.

        Raises StaleError otherwise, and NotFoundError if the policy is not kept or is of the other kind.
        """
        policy = await self._policy(hash_, kind)
        slot, standing = await self._locked(scope, kind)
        actual = standing.policy.hash if standing else None
        if actual != expected:
            raise StaleError(scope, kind, expected, actual)
        row = Activation(scope=scope, kind=kind, hash=hash_, cause=cause, evaluation=evaluation)
        if standing is not None:
            before = standing.activation
            row.replaces = before.epoch
            row.falls_back_to = before.falls_back_to if hash_ == actual else before.epoch
        return await self._enter(slot, row, policy)

    async def roll_back(
        self, scope: str, kind: Kind, *, cause: str, expected_epoch: int | None = None
    ) -> Standing:
        """Put the policy before the one in force back in force.

        Repeated, it goes further back, never to what was rolled back itself. Raises NotFoundError if there is nothing
        to go back to, StaleError if `expected_epoch` is given and not in force.
        """
        slot, standing = await self._locked(scope, kind)
        if standing is None or standing.activation.falls_back_to is None:
            raise NotFoundError(f"no earlier {kind} policy of {scope} to go back to")
        if expected_epoch is not None and standing.activation.epoch != expected_epoch:
            raise StaleError(scope, kind, f"epoch {expected_epoch}", f"epoch {standing.activation.epoch}")
        target = await self._one(_standing().where(Activation.epoch == standing.activation.falls_back_to))
        if target is None:
            raise NotFoundError(f"epoch {standing.activation.falls_back_to} is not in the history of {scope}")
        row = Activation(
            scope=scope,
            kind=kind,
            hash=target.policy.hash,
            cause=cause,
            rollback=True,
            replaces=standing.activation.epoch,
            falls_back_to=target.activation.falls_back_to,
        )
        return await self._enter(slot, row, target.policy)

    async def continue_after(self, epoch: int) -> bool:
        """Let epochs go on above `epoch` if none is there yet: receivers that heard it ignore everything up to it.

        True if they did not: this database is younger than what was heard, restored from a backup or begun anew.
        """
        newest = await self._session.scalar(select(func.coalesce(func.max(Activation.epoch), 0)))
        if newest is None or newest >= epoch:
            return False
        await self._session.execute(select(func.setval(f"{EPOCHS.schema}.{EPOCHS.name}", epoch)))
        return True

    async def rolled_back_unix_s(self, scope: str, kind: Kind, hash_: str) -> float | None:
        """When this policy was last rolled back from, none if it never was."""
        fallen = aliased(Activation)
        statement = (
            select(Activation.created)
            .join(fallen, fallen.epoch == Activation.replaces)
            .where(
                Activation.rollback, Activation.scope == scope, Activation.kind == kind, fallen.hash == hash_
            )
            .order_by(Activation.epoch.desc())
            .limit(1)
        )
        at = await self._session.scalar(statement)
        return at.timestamp() if at else None

    async def _locked(self, scope: str, kind: Kind) -> tuple[Active, Standing | None]:
        """The slot of (scope, kind), created if need be, locked until the transaction ends."""
        await self._session.execute(insert(Active).values(scope=scope, kind=kind).on_conflict_do_nothing())
        statement = select(Active).where(Active.scope == scope, Active.kind == kind).with_for_update()
        slot = (await self._session.scalars(statement.execution_options(populate_existing=True))).one()
        if slot.epoch is None:
            return slot, None
        return slot, await self._one(_standing().where(Activation.epoch == slot.epoch))

    async def _enter(self, slot: Active, row: Activation, policy: Policy) -> Standing:
        # Drawn under the slot's lock, so that epochs of one (scope, kind) rise in the order they commit.
        row.epoch = await self._session.scalar(select(EPOCHS.next_value()))  # type: ignore[assignment]
        self._session.add(row)
        await self._session.flush()
        await self._session.refresh(row)
        slot.epoch = row.epoch
        await self._session.flush()
        return Standing(row, policy)

    async def _policy(self, hash_: str, kind: Kind) -> Policy:
        policy = await self._session.get(Policy, hash_)
        if policy is None or policy.kind != kind:
            raise NotFoundError(f"no {kind} policy {hash_!r} in the store")
        return policy

    async def _one(self, statement: Select[Activation, Policy]) -> Standing | None:
        row = (await self._session.execute(statement)).one_or_none()
        return Standing(row[0], row[1]) if row else None


def _standing() -> Select[Activation, Policy]:
    return select(Activation, Policy).join(Policy, Policy.hash == Activation.hash)
