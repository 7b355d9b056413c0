"""`autopoiesis pause` and `resume`: stop and restart learning; serving goes on."""

import asyncio

from autopoiesis.cli.context import COMMON, Common, warn_of_scope
from autopoiesis.cli.output import console, print_json
from autopoiesis.store import EVERY_SCOPE, operations


def pause(scope: str = EVERY_SCOPE, *, common: Common = COMMON) -> None:
    """Stop writing, judging and promoting policies for SCOPE (default: all). What is active stays active."""

    async def act() -> None:
        async with common.store() as store:
            await operations.set_mode(store, scope, "paused", "autopoiesis pause")

    asyncio.run(act())
    warn_of_scope(common, scope)
    _told(common, scope, "paused", f"paused: {scope}; `autopoiesis resume` goes on")


def resume(scope: str = EVERY_SCOPE, *, common: Common = COMMON) -> None:
    """Go on after `pause`, in the configured mode."""

    async def act() -> None:
        async with common.store() as store:
            await operations.clear_mode(store, scope)

    asyncio.run(act())
    _told(common, scope, None, f"resumed: {scope}")


def _told(common: Common, scope: str, override: str | None, words: str) -> None:
    if common.json:
        print_json({"scope": scope, "override": override})
    else:
        console.print(words)
