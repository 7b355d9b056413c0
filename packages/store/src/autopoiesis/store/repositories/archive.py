from collections.abc import Sequence
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import distinct_on, insert
from sqlalchemy.ext.asyncio import AsyncSession

from autopoiesis.contracts.messages.policy import Kind
from autopoiesis.store.models import ArchiveEntry, Policy


class Archive:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def put(
        self,
        *,
        scope: str,
        kind: Kind,
        hash: str,  # noqa: A002 - the column's name
        score: float,
        cell: str = "",
        features: dict[str, Any] | None = None,
        snapshot: str = "",
        simulator: str = "",
    ) -> None:
        """Add an entry, or replace this policy's earlier one. The policy itself must be kept already."""
        values = {
            "score": score,
            "cell": cell,
            "features": features or {},
            "snapshot": snapshot,
            "simulator": simulator,
        }
        statement = insert(ArchiveEntry).values(scope=scope, kind=kind, hash=hash, **values)
        await self._session.execute(
            statement.on_conflict_do_update(index_elements=["scope", "kind", "hash"], set_=values)
        )

    async def best(self, scope: str, kind: Kind, *, limit: int = 50) -> Sequence[tuple[ArchiveEntry, Policy]]:
        """Highest score first, with the policies."""
        statement = (
            select(ArchiveEntry, Policy)
            .join(Policy, Policy.hash == ArchiveEntry.hash)
            .where(ArchiveEntry.scope == scope, ArchiveEntry.kind == kind)
            .order_by(ArchiveEntry.score.desc(), ArchiveEntry.hash)
        )
        return [(entry, policy) for entry, policy in await self._session.execute(statement.limit(limit))]

    async def elites(self, scope: str, kind: Kind) -> Sequence[ArchiveEntry]:
        """The best entry of each cell."""
        statement = (
            select(ArchiveEntry)
            .where(ArchiveEntry.scope == scope, ArchiveEntry.kind == kind)
            .ext(distinct_on(ArchiveEntry.cell))
            .order_by(ArchiveEntry.cell, ArchiveEntry.score.desc(), ArchiveEntry.hash)
        )
        return (await self._session.scalars(statement)).all()

    async def remove(self, scope: str, kind: Kind, hashes: Sequence[str]) -> None:
        await self._session.execute(
            delete(ArchiveEntry).where(
                ArchiveEntry.scope == scope, ArchiveEntry.kind == kind, ArchiveEntry.hash.in_(hashes)
            )
        )
