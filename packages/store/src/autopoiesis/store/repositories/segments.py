from collections.abc import Sequence
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from autopoiesis.store.models import Segment


class Segments:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(
        self,
        *,
        scope: str,
        content: str,
        path: str,
        start_unix_s: float,
        end_unix_s: float,
        rows: int,
        bytes: int,  # noqa: A002 - the column's name
        hash: str = "",  # noqa: A002 - the column's name
        details: dict[str, Any] | None = None,
    ) -> bool:
        """Index a file; False if its path was indexed already."""
        statement = insert(Segment).values(
            scope=scope,
            content=content,
            path=path,
            start_unix_s=start_unix_s,
            end_unix_s=end_unix_s,
            rows=rows,
            bytes=bytes,
            hash=hash,
            details=details or {},
        )
        return (
            await self._session.scalar(statement.on_conflict_do_nothing().returning(Segment.id)) is not None
        )

    async def between(
        self, scope: str, content: str, start_unix_s: float, end_unix_s: float
    ) -> Sequence[Segment]:
        """Segments that overlap [start, end), oldest first."""
        statement = select(Segment).where(
            Segment.scope == scope,
            Segment.content == content,
            Segment.end_unix_s >= start_unix_s,
            Segment.start_unix_s < end_unix_s,
        )
        return (await self._session.scalars(statement.order_by(Segment.start_unix_s, Segment.id))).all()

    async def last(self, *, limit: int = 50) -> Sequence[Segment]:
        """Newest first, over all scopes."""
        return (await self._session.scalars(select(Segment).order_by(Segment.id.desc()).limit(limit))).all()

    async def expire(self, before_unix_s: float) -> Sequence[Segment]:
        """Drop the entries of segments that ended before; returns them, so that the caller removes the files."""
        statement = delete(Segment).where(Segment.end_unix_s < before_unix_s).returning(Segment)
        return (await self._session.scalars(statement)).all()

    async def remove(self, paths: Sequence[str]) -> None:
        """Drop the entries of files that are gone."""
        await self._session.execute(delete(Segment).where(Segment.path.in_(paths)))
