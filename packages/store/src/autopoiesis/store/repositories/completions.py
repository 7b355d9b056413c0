from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from autopoiesis.store.models import Completion


@dataclass(frozen=True, slots=True)
class Spent:
    """What model calls cost so far."""

    calls: int
    prompt_tokens: int
    completion_tokens: int
    cost: float


class Completions:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(self, completion: Completion) -> int:
        """Keep one call; returns its id."""
        self._session.add(completion)
        await self._session.flush()
        return completion.id

    async def of_cycle(self, cycle: str) -> Sequence[Completion]:
        """Oldest first."""
        statement = select(Completion).where(Completion.cycle == cycle).order_by(Completion.id)
        return (await self._session.scalars(statement)).all()

    async def recent(self, *, limit: int = 50) -> Sequence[Completion]:
        """Newest first."""
        return (
            await self._session.scalars(select(Completion).order_by(Completion.id.desc()).limit(limit))
        ).all()

    async def spent(self, *, cycle: str | None = None, last: timedelta | None = None) -> Spent:
        """Sums over one cycle, or over all; with `last` only over what is not older."""
        statement = select(
            func.count(),
            func.coalesce(func.sum(Completion.prompt_tokens), 0),
            func.coalesce(func.sum(Completion.completion_tokens), 0),
            func.coalesce(func.sum(Completion.cost), 0.0),
        )
        if cycle is not None:
            statement = statement.where(Completion.cycle == cycle)
        if last is not None:
            statement = statement.where(Completion.created >= func.now() - last)
        calls, prompt, completion, cost = (await self._session.execute(statement)).one()
        return Spent(calls, prompt, completion, cost)
