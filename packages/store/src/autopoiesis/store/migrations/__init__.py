"""Alembic: `versions/` holds one file per change, numbered; `migrate` applies those that are missing.

A new one: copy the last, count up `revision`, name it as `down_revision`'s successor, write `upgrade`. A test upgrades an
empty database and compares it with the models. There is no `downgrade`: a restore from backup is the way back.
"""

from importlib.resources import as_file, files

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from autopoiesis.store.engine import async_url
from autopoiesis.store.errors import explained
from autopoiesis.store.models import SCHEMA

LOCK = "autopoiesis:migrate"


async def migrate(url: str, *, setting: str = "database.url") -> None:
    """Bring the database's tables up to date: all of it or nothing, once, however many processes ask at the same time.

    `url` must belong to a role that may create schemas. Raises DatabaseUnreachableError.
    """
    parsed = async_url(url)
    engine = create_async_engine(parsed, poolclass=NullPool)
    try:
        with explained(parsed, setting):
            async with engine.begin() as connection:
                await upgrade(connection)
    finally:
        await engine.dispose()


async def upgrade(connection: AsyncConnection) -> None:
    """The same inside a transaction of the caller's; waits for whoever else is at it."""
    await connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(LOCK, 0))))
    await connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
    await connection.run_sync(_upgrade)


def _upgrade(connection: Connection) -> None:
    with as_file(files(__package__)) as directory:
        config = Config()
        config.set_main_option("script_location", str(directory).replace("%", "%%"))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
