from collections.abc import Collection, Sequence

import msgspec
from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import distinct_on, insert
from sqlalchemy.ext.asyncio import AsyncSession

from autopoiesis.contracts.messages.policy import Judgement, Kind
from autopoiesis.store.models import Evaluation


class Evaluations:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(self, judgement: Judgement, *, gate: str, cycle: str = "", seed: int = 0) -> int | None:
        """Keep a judgement that ended at `gate` and return its id; None if this evidence was judged already."""
        statement = insert(Evaluation).values(
            scope=judgement.scope,
            kind=judgement.kind,
            candidate=judgement.hash,
            snapshot=judgement.snapshot,
            sealed=judgement.sealed,
            simulator=judgement.simulator,
            incumbent=judgement.incumbent,
            cycle=cycle,
            verdict=judgement.verdict,
            gate=gate,
            reason=judgement.reason,
            gain=judgement.gain,
            gain_low=judgement.gain_low,
            gain_high=judgement.gain_high,
            seed=seed,
            judgement=msgspec.to_builtins(judgement),
        )
        id_: int | None = await self._session.scalar(
            statement.on_conflict_do_nothing().returning(Evaluation.id)
        )
        return id_

    async def find(self, *, candidate: str, snapshot: str, simulator: str) -> Evaluation | None:
        """The judgement on exactly this evidence."""
        statement = select(Evaluation).where(
            Evaluation.candidate == candidate,
            Evaluation.snapshot == snapshot,
            Evaluation.simulator == simulator,
        )
        return await self._session.scalar(statement)

    async def looks(self, sealed: str, gate: str) -> int:
        """How many judgements came to `gate` on this sealed half: each is a look at data that should be seen rarely."""
        statement = select(func.count()).where(Evaluation.sealed == sealed, Evaluation.gate == gate)
        return await self._session.scalar(statement) or 0

    async def of(self, candidate: str) -> Sequence[Evaluation]:
        """All judgements of one candidate, newest first."""
        statement = select(Evaluation).where(Evaluation.candidate == candidate).order_by(Evaluation.id.desc())
        return (await self._session.scalars(statement)).all()

    async def by_id(self, ids: Collection[int]) -> dict[int, Evaluation]:
        """Judgements by their ids."""
        rows = await self._session.scalars(select(Evaluation).where(Evaluation.id.in_(ids)))
        return {row.id: row for row in rows}

    async def newest(self, candidates: Collection[str]) -> dict[str, Evaluation]:
        """The last judgement of each candidate, by its hash; those never judged are left out."""
        statement = (
            select(Evaluation)
            .where(Evaluation.candidate.in_(candidates))
            .ext(distinct_on(Evaluation.candidate))
            .order_by(Evaluation.candidate, Evaluation.id.desc())
        )
        return {row.candidate: row for row in await self._session.scalars(statement)}

    async def recent(
        self, scope: str, kind: Kind, *, cycle: str | None = None, limit: int = 50
    ) -> Sequence[Evaluation]:
        """Newest first; of one cycle, if given."""
        statement = select(Evaluation).where(Evaluation.scope == scope, Evaluation.kind == kind)
        if cycle is not None:
            statement = statement.where(Evaluation.cycle == cycle)
        return (await self._session.scalars(statement.order_by(Evaluation.id.desc()).limit(limit))).all()


def judgement_of(row: Evaluation) -> Judgement:
    """The message a row was made of."""
    return msgspec.convert(row.judgement, Judgement)
