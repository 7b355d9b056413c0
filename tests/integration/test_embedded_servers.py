"""Real nats-server and PostgreSQL under the supervisor."""

from pathlib import Path

import asyncpg
import nats
import pytest

from autopoiesis.runtime import embedded


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
