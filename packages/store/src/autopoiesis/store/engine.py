"""The connection to PostgreSQL: transactions and locks."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

from sqlalchemy import func, select, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine

from autopoiesis.store.errors import StoreError, explained
from autopoiesis.store.unit import Unit

CONNECT_TIMEOUT_S = 10.0


def async_url(url: str) -> URL:
    """`postgresql://…` as SQLAlchemy wants it for asyncpg. Raises StoreError if it is not a PostgreSQL URL."""
    if not url:
        raise StoreError("it is empty; expected postgresql://user:password@host:port/database")
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise StoreError(
            f"not a database URL; expected postgresql://user:password@host:port/database ({error})"
        ) from error
    if parsed.get_backend_name() != "postgresql":
        raise StoreError(
            f"{parsed.drivername} is not PostgreSQL; expected postgresql://user:password@host:port/database"
        )
    return parsed.set(drivername="postgresql+asyncpg")


class Store:
    """One pool of connections to PostgreSQL.

    `begin` opens a transaction that holds every repository; it commits when the block ends and rolls back when it
    raises. Rows read stay readable after it. Raises DatabaseUnreachableError when the connection is lost.
    """

    def __init__(self, url: str, *, pool_size: int = 5, setting: str = "database.url") -> None:
        self.url = async_url(url)
        self._setting = setting
        self._engine: AsyncEngine = create_async_engine(
            self.url,
            pool_size=pool_size,
            pool_pre_ping=True,
            connect_args={
                "timeout": CONNECT_TIMEOUT_S,
                "server_settings": {"application_name": "autopoiesis"},
            },
        )

    @classmethod
    async def open(cls, url: str, *, pool_size: int = 5, setting: str = "database.url") -> Self:
        """Connect once, to fail early. `setting` is the name of the setting that `url` came from, for messages."""
        store = cls(url, pool_size=pool_size, setting=setting)
        try:
            await store.ping()
        except BaseException:
            await store.close()
            raise
        return store

    async def ping(self) -> None:
        with explained(self.url, self._setting):
            async with self._engine.connect() as connection:
                await connection.execute(text("SELECT 1"))

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[Unit]:
        with explained(self.url, self._setting):
            async with AsyncSession(self._engine, expire_on_commit=False) as session, session.begin():
                yield Unit(session)

    @asynccontextmanager
    async def exclusive(self, name: str) -> AsyncIterator["Exclusive"]:
        """Wait for the lock `name`, which one connection in this database can hold, and hold it for the block.

        PostgreSQL frees it when the connection ends, however that happens; the holder learns of it by an error in its
        next `begin`, because that runs on the same connection.
        """
        with explained(self.url, self._setting):
            async with self._engine.connect() as connection:
                key = func.hashtextextended(f"autopoiesis:{name}", 0)
                await connection.execute(select(func.pg_advisory_lock(key)))
                await connection.commit()
                try:
                    yield Exclusive(connection)
                finally:
                    await connection.invalidate()

    async def close(self) -> None:
        await self._engine.dispose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class Exclusive:
    """A held lock; its transactions run on the connection that holds it."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[Unit]:
        async with AsyncSession(self._connection, expire_on_commit=False) as session, session.begin():
            yield Unit(session)
