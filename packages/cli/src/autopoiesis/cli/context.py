"""What most commands need first: the settings, the running installation, its database and its router."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from autopoiesis.cli.installation import Running, found
from autopoiesis.cli.output import CommandError, progress
from autopoiesis.runtime.settings import DatabaseSettings, Section, Settings
from autopoiesis.store import EVERY_SCOPE, Store

DATA_DIR = Path(".autopoiesis")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Common:
    """Options that every command understands."""

    config: Annotated[Path | None, Parameter(help="Configuration file; default ./autopoiesis.yaml.")] = None
    data: Annotated[Path, Parameter(help="Data directory of the installation on this machine.")] = DATA_DIR
    json: Annotated[bool, Parameter(help="Print JSON for scripts.", negative=())] = False

    def settings(self, *sections: type[Section], flags: Mapping[str, Any] | None = None) -> Settings:
        given = {key: value for key, value in (flags or {}).items() if value is not None}
        return Settings.load(*sections, config=self.config, flags=given)

    def running(self) -> Running:
        """The installation that runs here. Raises CommandError if there is none."""
        running = found(self.data)
        if running is None:
            raise CommandError(
                f"nothing runs in {self.data}: start it with `autopoiesis up`, or name its directory with --data"
            )
        return running

    def database_url(self) -> str:
        configured = self.settings()[DatabaseSettings].url
        return configured or self.running().database

    @asynccontextmanager
    async def store(self) -> AsyncIterator[Store]:
        """The store, opened with the operator's rights."""
        store = await Store.open(self.database_url(), pool_size=1)
        try:
            yield store
        finally:
            await store.close()

    def router_url(self, url: str | None = None) -> str:
        return (url or self.running().router).rstrip("/")

    def admin_headers(self) -> dict[str, str]:
        """What the router that runs here wants of its operator."""
        running = found(self.data)
        token = running.admin_token if running else ""
        return {"authorization": f"Bearer {token}"} if token else {}


COMMON = Common()


def warn_of_scope(common: Common, scope: str) -> None:
    """Say so where an operator named a scope that what runs here does not serve: likely a slip, perhaps another cluster's."""
    running = found(common.data)
    if running is not None and scope not in {running.scope, EVERY_SCOPE}:
        progress.print(f"note: what runs here serves {running.scope}, not {scope}", soft_wrap=True)
