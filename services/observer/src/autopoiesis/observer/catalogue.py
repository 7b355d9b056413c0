"""The index of segments in Postgres, and retention. The files are the truth; the index follows when the database is there."""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autopoiesis.observer.ingest import Ingest
from autopoiesis.observer.segments import Segment
from autopoiesis.observer.settings import ObserverSettings
from autopoiesis.store import EVERY_SCOPE, Store, StoreError

log = logging.getLogger(__name__)

PRUNE_S = 60.0


class Catalogue:
    """Keeps the index in step with the files, whenever the database can be had."""

    def __init__(self, store: Store, ingests: Sequence[Ingest[Any]], settings: ObserverSettings) -> None:
        self._store, self._ingests, self._settings = store, ingests, settings
        self._indexed: set[Path] = set()
        self._wake = asyncio.Event()
        self._wake.set()

    def changed(self, segment: Segment) -> None:
        """A segment was closed."""
        self._wake.set()

    async def run(self) -> None:
        """Index and prune until cancelled; at start everything on disk is indexed."""
        while True:
            try:
                await asyncio.wait_for(self._wake.wait(), PRUNE_S)
            except TimeoutError:
                await self.prune()
            self._wake.clear()
            try:
                await self.index()
            except StoreError as error:
                log.warning("observer: segments are on disk but not indexed yet: %s", error)
                self._wake.set()
                await asyncio.sleep(5.0)

    async def index(self) -> None:
        """Add what is on disk and not in the index."""
        new = [
            segment
            for ingest in self._ingests
            for segment in await asyncio.to_thread(ingest.segments.segments)
            if segment.path not in self._indexed
        ]
        async with self._store.begin() as unit:
            for segment in new:
                await unit.segments.add(
                    scope=EVERY_SCOPE,
                    content=segment.kind,
                    path=str(segment.path.resolve()),
                    start_unix_s=segment.start_unix_s,
                    end_unix_s=segment.end_unix_s,
                    rows=segment.rows,
                    bytes=segment.size_bytes,
                )
        self._indexed |= {segment.path for segment in new}

    async def prune(self) -> None:
        """Delete files beyond the retention, and their entries."""
        gone: list[Path] = []
        for ingest in self._ingests:
            async with ingest.lock:
                pruned = await asyncio.to_thread(
                    ingest.segments.prune,
                    max_age_s=self._settings.keep_s,
                    max_bytes=self._settings.keep_bytes,
                )
            gone += [segment.path.resolve() for segment in pruned]
        if gone:
            log.info("observer: %d segments beyond the retention deleted", len(gone))
            async with self._store.begin() as unit:
                await unit.segments.remove([str(path) for path in gone])
