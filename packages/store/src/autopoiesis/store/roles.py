"""One database role per service, with no more rights than it uses."""

from collections.abc import Callable
from typing import Final, Literal, get_args

from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from autopoiesis.store.engine import async_url
from autopoiesis.store.errors import explained
from autopoiesis.store.migrations import upgrade
from autopoiesis.store.models import SCHEMA, SEALED

Role = Literal["observer", "synthesizer", "evaluator", "operator"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)

PasswordSource = Callable[[str], str]
"""Database role to its password; called once for each, and the caller keeps what it returned."""

_EVERYBODY_READS = ("policies", "evaluations", "snapshots", "activations", "active", "control")

_GRANTS: Final[dict[Role, dict[str, str]]] = {
    "observer": {
        "snapshots": "INSERT, DELETE",
        "segments": "SELECT, INSERT, DELETE",
        f"{SEALED}.snapshots": "SELECT (hash, scope, created), INSERT, DELETE",
        "outbox": "SELECT, INSERT, UPDATE, DELETE",
    },
    "synthesizer": {
        "policies": "INSERT",
        "archive": "SELECT, INSERT, UPDATE, DELETE",
        "completions": "SELECT, INSERT, UPDATE",
        "outbox": "SELECT, INSERT, UPDATE, DELETE",
    },
    "evaluator": {
        "policies": "INSERT",
        "evaluations": "INSERT",
        "activations": "INSERT",
        "active": "INSERT, UPDATE",
        "archive": "SELECT",
        "outbox": "SELECT, INSERT, UPDATE, DELETE",
        f"{SEALED}.snapshots": "SELECT",
    },
    "operator": {
        "policies": "INSERT",
        "activations": "INSERT",
        "active": "INSERT, UPDATE",
        "control": "INSERT, UPDATE, DELETE",
        "archive": "SELECT",
        "completions": "SELECT",
        "segments": "SELECT",
        "outbox": "SELECT, INSERT",
    },
}

_SPEAKS_AS: Final[dict[Role, str]] = {
    "observer": "observer",
    "synthesizer": "synthesizer",
    "evaluator": "evaluator",
    "operator": "evaluator",
}
"""Whose outbox a role may write to: without this the synthesizer could announce an activation."""


def database_role(role: Role) -> str:
    return f"autopoiesis_{role}"


async def provision(
    superuser_url: str, password_source: PasswordSource, *, setting: str = "database.url"
) -> dict[Role, str]:
    """Migrate, create the roles, set their passwords and rights; returns each role's URL. May be repeated.

    `superuser_url` must belong to a role that may create roles and schemas. Raises DatabaseUnreachableError.
    """
    url = async_url(superuser_url)
    passwords = {role: password_source(database_role(role)) for role in ROLES}
    engine = create_async_engine(url, poolclass=NullPool)
    try:
        with explained(url, setting):
            async with engine.begin() as connection:
                await upgrade(connection)
                await connection.execute(text(f"ALTER TABLE {SCHEMA}.outbox ENABLE ROW LEVEL SECURITY"))
                for role, password in passwords.items():
                    await _create(connection, database_role(role), password)
                    await _grant(connection, role)
    finally:
        await engine.dispose()
    return {role: _url_of(url, role, password) for role, password in passwords.items()}


def _url_of(url: URL, role: Role, password: str) -> str:
    own = url.set(drivername="postgresql", username=database_role(role), password=password)
    return own.render_as_string(hide_password=False)


async def _create(connection: AsyncConnection, name: str, password: str) -> None:
    known = await connection.scalar(text("SELECT 1 FROM pg_roles WHERE rolname = :name"), {"name": name})
    verb = "ALTER" if known else "CREATE"
    quoted = text("SELECT format(CAST(:form AS text), CAST(:name AS text), CAST(:password AS text))")
    statement = await connection.scalar(
        quoted, {"form": f"{verb} ROLE %I LOGIN PASSWORD %L", "name": name, "password": password}
    )
    await connection.exec_driver_sql(statement)


async def _grant(connection: AsyncConnection, role: Role) -> None:
    name = database_role(role)
    rights = dict.fromkeys(_EVERYBODY_READS, "SELECT")
    for table, more in _GRANTS[role].items():
        rights[table] = f"{rights[table]}, {more}" if table in rights else more
    statements = [
        f"REVOKE ALL ON ALL TABLES IN SCHEMA {SCHEMA}, {SEALED} FROM {name}",
        f"GRANT USAGE ON SCHEMA {SCHEMA} TO {name}",
        *(f"GRANT {right} ON {_qualified(table)} TO {name}" for table, right in rights.items()),
        f"DROP POLICY IF EXISTS {role} ON {SCHEMA}.outbox",
        f"CREATE POLICY {role} ON {SCHEMA}.outbox TO {name} USING (owner = '{_SPEAKS_AS[role]}')",
    ]
    if any(table.startswith(f"{SEALED}.") for table in rights):
        statements.append(f"GRANT USAGE ON SCHEMA {SEALED} TO {name}")
    if "activations" in _GRANTS[role]:
        more = ", UPDATE" if role == "evaluator" else ""
        statements.append(f"GRANT USAGE{more} ON SEQUENCE {SCHEMA}.epochs TO {name}")
    for statement in statements:
        await connection.exec_driver_sql(statement)


def _qualified(table: str) -> str:
    return table if "." in table else f"{SCHEMA}.{table}"
