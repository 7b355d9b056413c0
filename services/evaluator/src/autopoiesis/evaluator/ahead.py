"""The rivals' replays of a new window, made while candidates for it are still being written."""

import asyncio
import logging
from collections.abc import Mapping, Sequence

from autopoiesis.contracts.messages.policy import Kind
from autopoiesis.contracts.messages.trace import SnapshotReady
from autopoiesis.evaluator.case import Arm
from autopoiesis.evaluator.replays import Blocks, FailedReplayError, Replays
from autopoiesis.evaluator.shipped import in_force, shipped
from autopoiesis.runtime.bus import Received
from autopoiesis.store import Mode, Store, StoreError

log = logging.getLogger(__name__)


class Ahead:
    """On `trace.snapshot`: replays what is in force and every shipped policy on the open blocks, plan policies too where a planner was at work.

    Saves time and nothing else: a judgement makes what it does not find.
    """

    def __init__(
        self, store: Store, replays: Replays, *, first: Mapping[Kind, Arm], configured: Mode
    ) -> None:
        self._store = store
        self._replays = replays
        self._first = first
        self._configured: Mode = configured
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def on_snapshot(self, received: Received[SnapshotReady]) -> None:
        """The newest window of a scope is the one that candidates will be judged on."""
        ready = received.message
        if (old := self._tasks.pop(ready.scope, None)) is not None:
            old.cancel()
        self._tasks[ready.scope] = asyncio.create_task(self.replay(ready), name=f"ahead {ready.scope}")

    async def stop(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def replay(self, ready: SnapshotReady) -> None:
        """In modes in which candidates are judged."""
        try:
            async with self._store.begin() as unit:
                mode = await unit.controls.mode(ready.scope, configured=self._configured)
                window = await unit.snapshots.get(ready.snapshot)
            if mode in {"off", "paused"}:
                return
            router = await self._in_force(ready.scope, "dispatch")
            blocks = await self._replays.open_blocks(window)
            await self._rivals(blocks, (router, *shipped("dispatch")))
            if blocks.window.info.planned:
                planner = await self._in_force(ready.scope, "plan")
                blocks = await self._replays.open_blocks(window, router)
                await self._rivals(blocks, (planner, *shipped("plan")))
        except StoreError as error:
            log.warning("nothing was replayed ahead of %s: %s", ready.snapshot[:12], error)
            return
        log.info("the rivals' replays of %s are ready", ready.snapshot[:12])

    async def _rivals(self, blocks: Blocks, arms: Sequence[Arm]) -> None:
        for arm in arms:
            try:
                await self._replays.run_ahead(arm, blocks)
            except FailedReplayError as error:
                log.warning("%s, replayed ahead: %s", arm.name, error)

    async def _in_force(self, scope: str, kind: Kind) -> Arm:
        return await in_force(self._store, scope, kind, first=self._first[kind])
