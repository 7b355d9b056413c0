import uuid
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import msgspec
from opentelemetry import propagate
from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from autopoiesis.contracts.codec import encode
from autopoiesis.contracts.subjects import Subject
from autopoiesis.store.models import Outgoing


class Outbox:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(
        self,
        subject: Subject[Any],
        message: msgspec.Struct,
        *,
        message_id: str | None = None,
        **tokens: str,
    ) -> None:
        """Decide to publish `message` when, and only when, this transaction commits.

        `tokens` fill the subject's pattern. The subject's owner publishes it (`keep_relaying`), at least once, in this
        order, as part of the current trace.
        """
        headers: dict[str, str] = {}
        propagate.inject(headers)
        self._session.add(
            Outgoing(
                owner=subject.owner,
                subject=subject.at(**tokens),
                payload=encode(message).decode(),
                message_id=message_id or uuid.uuid4().hex,
                headers=headers,
            )
        )
        await self._session.flush()

    async def waiting(self, owner: str, *, limit: int = 100) -> Sequence[Outgoing]:
        """Not published yet, oldest first."""
        statement = select(Outgoing).where(Outgoing.owner == owner, Outgoing.published.is_(None))
        return (await self._session.scalars(statement.order_by(Outgoing.id).limit(limit))).all()

    async def mark_published(self, id_: int) -> None:
        await self._session.execute(update(Outgoing).where(Outgoing.id == id_).values(published=func.now()))

    async def prune(self, owner: str, *, older_than_s: float) -> None:
        """Forget what was published longer ago than that."""
        age = func.now() - Outgoing.published
        await self._session.execute(
            delete(Outgoing).where(Outgoing.owner == owner, age > timedelta(seconds=older_than_s))
        )
