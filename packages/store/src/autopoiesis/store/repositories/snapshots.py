from collections.abc import Sequence

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from autopoiesis.contracts.messages.trace import SnapshotReady
from autopoiesis.store.errors import NotFoundError
from autopoiesis.store.models import SealedSnapshot, Snapshot


class Snapshots:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(self, ready: SnapshotReady, *, path: str, sealed: bytes | None = None) -> bool:
        """Keep a window: the open half's file at `path`, the sealed half's bytes. False if it was there already."""
        statement = insert(Snapshot).values(
            hash=ready.snapshot,
            scope=ready.scope,
            path=path,
            start_unix_s=ready.start_unix_s,
            cut_unix_s=ready.cut_unix_s,
            end_unix_s=ready.end_unix_s,
            arrivals=ready.arrivals,
            sealed_hash=ready.sealed,
            sealed_arrivals=ready.sealed_arrivals,
            cause=ready.cause,
        )
        added = (
            await self._session.scalar(statement.on_conflict_do_nothing().returning(Snapshot.hash))
            is not None
        )
        if sealed is not None:
            half = insert(SealedSnapshot).values(
                hash=ready.sealed, scope=ready.scope, arrivals=ready.sealed_arrivals, data=sealed
            )
            await self._session.execute(half.on_conflict_do_nothing())
        return added

    async def get(self, hash_: str) -> Snapshot:
        """Raises NotFoundError."""
        snapshot = await self._session.get(Snapshot, hash_)
        if snapshot is None:
            raise NotFoundError(f"no snapshot {hash_!r} in the store")
        return snapshot

    async def sealed(self, hash_: str) -> bytes:
        """The sealed half's bytes; the evaluator's role alone may ask. Raises NotFoundError."""
        data = await self._session.scalar(select(SealedSnapshot.data).where(SealedSnapshot.hash == hash_))
        if data is None:
            raise NotFoundError(f"no sealed snapshot {hash_!r} in the store")
        return data

    async def recent(self, scope: str, *, limit: int = 50) -> Sequence[Snapshot]:
        """Newest first."""
        statement = (
            select(Snapshot).where(Snapshot.scope == scope).order_by(Snapshot.created.desc(), Snapshot.hash)
        )
        return (await self._session.scalars(statement.limit(limit))).all()

    async def prune(self, scope: str, *, keep: int) -> Sequence[Snapshot]:
        """Forget all but the newest `keep` windows of `scope`, sealed halves too; returns those forgotten."""
        old = (
            select(Snapshot.hash)
            .where(Snapshot.scope == scope)
            .order_by(Snapshot.created.desc(), Snapshot.hash)
        )
        gone = (
            await self._session.scalars(
                delete(Snapshot).where(Snapshot.hash.in_(old.offset(keep))).returning(Snapshot)
            )
        ).all()
        sealed = [snapshot.sealed_hash for snapshot in gone if snapshot.sealed_hash]
        if sealed:
            await self._session.execute(delete(SealedSnapshot).where(SealedSnapshot.hash.in_(sealed)))
        return gone
