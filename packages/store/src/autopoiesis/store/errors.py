"""What can go wrong with the store, said so that the reader knows what to change."""

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, InterfaceError


class StoreError(RuntimeError):
    """Base of this package's errors."""


class DatabaseUnreachableError(StoreError):
    """PostgreSQL did not answer, or refused us."""


class NotMigratedError(StoreError):
    """The database answers, but our tables are not in it."""


class NotFoundError(StoreError):
    """No such policy, snapshot or activation."""


class StaleError(StoreError):
    """Compare-and-set failed: something else is in force than what the caller judged against."""

    def __init__(self, scope: str, kind: str, expected: str | None, actual: str | None) -> None:
        super().__init__(
            f"{kind} policy of {scope}: expected {_short(expected)} in force, found {_short(actual)}; judge again"
        )
        self.expected = expected
        self.actual = actual


class CorruptBlobError(StoreError):
    """Bytes do not hash to their name."""


def _short(hash_: str | None) -> str:
    return hash_[:12] if hash_ else "nothing"


_REFUSED = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
)


@contextmanager
def explained(url: URL, setting: str) -> Iterator[None]:
    """Turn a driver's error about the connection into one that says what was tried and what to change."""
    where = url.render_as_string(hide_password=True)
    try:
        yield
    except (OSError, asyncpg.ClientConfigurationError, *_REFUSED) as error:
        raise _unreachable(where, setting, error) from error
    except InterfaceError as error:
        raise _unreachable(where, setting, error.orig or error) from error
    except DBAPIError as error:
        cause = error.orig.__cause__ if error.orig else None
        if error.connection_invalidated or isinstance(cause, (asyncpg.PostgresConnectionError, *_REFUSED)):
            raise _unreachable(where, setting, cause or error) from error
        if isinstance(cause, asyncpg.UndefinedTableError | asyncpg.InvalidSchemaNameError):
            raise NotMigratedError(
                f"{where} lacks our tables ({cause}); run autopoiesis.store.migrate on it"
            ) from error
        raise


def _unreachable(where: str, setting: str, error: BaseException) -> DatabaseUnreachableError:
    return DatabaseUnreachableError(
        f"PostgreSQL at {where} did not accept us: {error}. Is it running there? If not there, set {setting}"
    )
