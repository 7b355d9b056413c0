from collections.abc import Sequence
from typing import Literal, get_args

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from autopoiesis.store.errors import StoreError
from autopoiesis.store.models import Control

Mode = Literal["off", "advise", "auto", "paused"]
"""off: no evolution. advise: all but activation. auto: activate too. paused: an operator's stop, like off."""

EVERY_SCOPE = "*"


class Controls:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def mode(self, scope: str, *, configured: Mode) -> Mode:
        """The mode in force: the operator's for this scope, else for every scope, else the configured one."""
        rows = await self._session.scalars(select(Control).where(Control.scope.in_([scope, EVERY_SCOPE])))
        said: dict[str, Mode] = {row.scope: _mode(row.mode) for row in rows}
        return said.get(scope, said.get(EVERY_SCOPE, configured))

    async def set(self, scope: str, mode: Mode, *, cause: str = "") -> None:
        """Override the settings for `scope` (`*`: all). Raises StoreError for a word that is not a mode."""
        values = {"mode": _mode(mode), "cause": cause, "changed": func.now()}
        statement = insert(Control).values(scope=scope, **values)
        await self._session.execute(statement.on_conflict_do_update(index_elements=["scope"], set_=values))

    async def clear(self, scope: str) -> None:
        """Back to the settings."""
        await self._session.execute(delete(Control).where(Control.scope == scope))

    async def all(self) -> Sequence[Control]:
        return (await self._session.scalars(select(Control).order_by(Control.scope))).all()


def _mode(word: str) -> Mode:
    for mode in get_args(Mode):
        if word == mode:
            return mode  # type: ignore[no-any-return]  # get_args is untyped
    raise StoreError(f"{word!r} is not a mode; one of {', '.join(get_args(Mode))}")
