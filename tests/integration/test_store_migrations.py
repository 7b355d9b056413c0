"""The schema: built from nothing, once, whoever asks; equal to the models; roles that may no more than they must."""

import asyncio
import sys
from collections.abc import AsyncIterator

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.ext.asyncio import create_async_engine

from autopoiesis.contracts.messages.policy import Activation
from autopoiesis.contracts.messages.trace import SnapshotReady
from autopoiesis.contracts.subjects import PROMOTED
from autopoiesis.store import (
    DatabaseUnreachableError,
    NotMigratedError,
    Role,
    Store,
    StoreError,
    migrate,
    provision,
)
from autopoiesis.store.engine import async_url
from autopoiesis.store.models import SCHEMA, Base

MIGRATE = "import asyncio, sys; from autopoiesis.store import migrate; asyncio.run(migrate(sys.argv[1]))"
WINDOW = SnapshotReady(
    scope="local/m",
    snapshot="open",
    sealed="shut",
    start_unix_s=0.0,
    cut_unix_s=60.0,
    end_unix_s=90.0,
    arrivals=10,
    sealed_arrivals=5,
    cause="interval",
)


async def test_upgrade_from_empty_gives_the_models(database_url: str) -> None:
    await migrate(database_url)
    await migrate(database_url)
    # The test's role is named like the schema: without this, PostgreSQL takes that for the default one.
    engine = create_async_engine(
        async_url(database_url), connect_args={"server_settings": {"search_path": "public"}}
    )
    async with engine.connect() as connection:
        options = {"include_schemas": True, "version_table_schema": SCHEMA, "compare_server_default": True}
        differences = await connection.run_sync(
            lambda sync: compare_metadata(MigrationContext.configure(sync, opts=options), Base.metadata)
        )
    await engine.dispose()
    assert differences == []


async def test_processes_migrating_at_once_all_succeed(database_url: str) -> None:
    async def one() -> tuple[int | None, bytes]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", MIGRATE, database_url, stderr=asyncio.subprocess.PIPE
        )
        _, errors = await process.communicate()
        return process.returncode, errors

    assert list(await asyncio.gather(one(), one())) == [(0, b""), (0, b"")]
    connection = await asyncpg.connect(database_url)
    assert await connection.fetchval(f"SELECT count(*) FROM {SCHEMA}.alembic_version") == 1
    await connection.close()


@pytest.fixture
async def urls(database_url: str) -> dict[Role, str]:
    return await provision(database_url, lambda role: f"it's {role} %s")


@pytest.fixture
async def as_synthesizer(urls: dict[Role, str]) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(urls["synthesizer"])
    yield connection
    await connection.close()


async def test_synthesizer_cannot_read_the_sealed_half(
    urls: dict[Role, str], as_synthesizer: asyncpg.Connection
) -> None:
    async with await Store.open(urls["observer"]) as observer, observer.begin() as unit:
        assert await unit.snapshots.add(WINDOW, path="open.parquet", sealed=b"secret")
    async with await Store.open(urls["evaluator"]) as evaluator, evaluator.begin() as unit:
        assert await unit.snapshots.sealed("shut") == b"secret"

    assert await as_synthesizer.fetchval("SELECT current_user") == "autopoiesis_synthesizer"
    assert await as_synthesizer.fetchval(f"SELECT path FROM {SCHEMA}.snapshots") == "open.parquet"
    for denied in ("SELECT data FROM sealed.snapshots", "SELECT count(*) FROM sealed.snapshots"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await as_synthesizer.fetch(denied)


async def test_observer_writes_the_sealed_half_and_cannot_read_it_back(urls: dict[Role, str]) -> None:
    async with await Store.open(urls["observer"]) as observer:
        async with observer.begin() as unit:
            await unit.snapshots.add(WINDOW, path="open.parquet", sealed=b"secret")
            assert not await unit.snapshots.add(WINDOW, path="open.parquet", sealed=b"secret")
        with pytest.raises(Exception, match="permission denied"):
            async with observer.begin() as unit:
                await unit.snapshots.sealed("shut")
        async with observer.begin() as unit:
            assert [gone.hash for gone in await unit.snapshots.prune("local/m", keep=0)] == ["open"]


async def test_synthesizer_can_neither_activate_nor_announce_an_activation(
    urls: dict[Role, str], as_synthesizer: asyncpg.Connection
) -> None:
    for denied in (
        f"INSERT INTO {SCHEMA}.active (scope, kind) VALUES ('local/m', 'dispatch')",
        f"SELECT nextval('{SCHEMA}.epochs')",
        f"UPDATE {SCHEMA}.policies SET source = ''",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await as_synthesizer.execute(denied)
    forged = Activation(
        scope="local/m", kind="dispatch", epoch=9, hash="h", source="", api=1, cause="", at_unix_s=0.0
    )
    async with await Store.open(urls["synthesizer"]) as store:
        with pytest.raises(Exception, match="row-level security"):
            async with store.begin() as unit:
                await unit.outbox.add(PROMOTED, forged, scope="s", kind="dispatch")


async def test_provision_again_changes_the_password_and_keeps_the_rest(database_url: str) -> None:
    first = await provision(database_url, lambda _role: "one")
    second = await provision(database_url, lambda _role: "two")
    async with await Store.open(second["operator"]) as store:
        await store.ping()
    with pytest.raises(DatabaseUnreachableError, match="database\\.operator"):
        await Store.open(first["operator"], setting="database.operator")


async def test_errors_say_what_to_change(free_port: int, database_url: str) -> None:
    url = f"postgresql://somebody:hidden@127.0.0.1:{free_port}/nowhere"
    with pytest.raises(DatabaseUnreachableError) as caught:
        await Store.open(url, setting="database.evaluator")
    assert str(free_port) in str(caught.value)
    assert "database.evaluator" in str(caught.value)
    assert "hidden" not in str(caught.value)

    with pytest.raises(StoreError, match="mysql is not PostgreSQL"):
        Store("mysql://localhost/x")
    with pytest.raises(StoreError, match="expected postgresql://"):
        Store("nonsense")
    async with await Store.open(database_url) as store:
        with pytest.raises(NotMigratedError, match="migrate"):
            async with store.begin() as unit:
                await unit.policies.get("x")
