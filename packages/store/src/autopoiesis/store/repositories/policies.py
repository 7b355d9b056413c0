from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from autopoiesis.contracts.messages.policy import Kind, Origin
from autopoiesis.store.errors import NotFoundError
from autopoiesis.store.models import Evaluation, Policy


class Policies:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(
        self,
        *,
        hash: str,  # noqa: A002 - the column's name
        kind: Kind,
        api: int,
        source: str,
        origin: Origin,
        parents: Sequence[str] = (),
        title: str = "",
    ) -> bool:
        """Keep a policy; False if it was there already (what is kept first stays)."""
        values = {
            "hash": hash,
            "kind": kind,
            "api": api,
            "source": source,
            "origin": origin,
            "parents": list(parents),
            "title": title,
        }
        statement = insert(Policy).values(values).on_conflict_do_nothing().returning(Policy.hash)
        return await self._session.scalar(statement) is not None

    async def get(self, hash_: str) -> Policy:
        """Raises NotFoundError."""
        policy = await self._session.get(Policy, hash_)
        if policy is None:
            raise NotFoundError(f"no policy {hash_!r} in the store")
        return policy

    async def find(self, prefix: str) -> Policy:
        """The one policy whose hash begins so. Raises NotFoundError if there is none, or more than one."""
        statement = select(Policy).where(Policy.hash.startswith(prefix, autoescape=True)).limit(2)
        found = (await self._session.scalars(statement)).all()
        if not found:
            raise NotFoundError(f"no policy's hash begins with {prefix!r}")
        if len(found) > 1:
            raise NotFoundError(f"more than one policy's hash begins with {prefix!r}; give more of it")
        return found[0]

    async def known(self, hashes: Sequence[str]) -> set[str]:
        """Those of `hashes` that are kept."""
        return set(await self._session.scalars(select(Policy.hash).where(Policy.hash.in_(hashes))))

    async def recent(
        self, *, kind: Kind | None = None, judged: bool = False, limit: int = 50
    ) -> Sequence[Policy]:
        """Newest first; with `judged` only those that an evaluator spoke on."""
        statement = select(Policy).order_by(Policy.created.desc(), Policy.hash).limit(limit)
        if kind is not None:
            statement = statement.where(Policy.kind == kind)
        if judged:
            statement = statement.where(Policy.hash.in_(select(Evaluation.candidate)))
        return (await self._session.scalars(statement)).all()
