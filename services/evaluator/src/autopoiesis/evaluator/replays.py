"""Runs policies over blocks of a window at several loads and seeds, each combination once."""

import asyncio
import random
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Protocol
from weakref import WeakValueDictionary

from autopoiesis.evaluator.case import Arm
from autopoiesis.evaluator.scoring import Replay
from autopoiesis.evaluator.settings import EvaluatorSettings
from autopoiesis.simulator.workload.snapshot import read_snapshot
from autopoiesis.simulator.workload.window import Window, pack
from autopoiesis.store import BlobStore, Store
from autopoiesis.store.models import Snapshot

KEPT = 512
"""Replays kept in memory: a few windows with all rivals."""
WINDOWS = 4
"""Halves of windows kept decoded: those of the cases at hand."""

_Key = tuple[str, str, str, float, int]
"""Policy, the one beside it, blocks, load, seed."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """One half of a window and the seeds to replay it with."""

    name: str
    """Hash of the bytes."""
    window: Window
    packed: bytes
    """The same, for the jail."""
    seeds: tuple[int, ...]
    beside: Arm | None = None
    """The dispatch policy that routes, where plan policies are replayed."""
    lead: bytes = b""
    """The half before, packed: every policy serves it first, unscored, to meet these blocks with queues of its own."""

    @property
    def model_error(self) -> float | None:
        """Relative error of the simulator's step times against what was measured in this window, where it was."""
        return self.window.info.step_error


class FailedReplayError(Exception):
    """A policy's replay did not end well: time, memory, a crash, or results that cannot be."""

    def __init__(self, arm: Arm, why: str) -> None:
        super().__init__(why)
        self.arm = arm


class Simulate(Protocol):
    """Replays one policy once. Raises FailedReplayError."""

    async def __call__(self, arm: Arm, blocks: Blocks, *, load: float, seed: int) -> Replay: ...


class Replays:
    """The evaluator's view of the simulator. Open blocks keep their seeds while the process lives, so that the rivals'
    replays are shared by all candidates of a window; sealed blocks get the evaluation's own.
    """

    def __init__(
        self, simulate: Simulate, store: Store, blobs: BlobStore, settings: EvaluatorSettings
    ) -> None:
        self._simulate = simulate
        self._store = store
        self._blobs = blobs
        self._settings = settings
        self._secret = secrets.randbits(63)
        self._slots = asyncio.Semaphore(settings.parallel)
        self._done: OrderedDict[_Key, Replay] = OrderedDict()
        self._locks: WeakValueDictionary[_Key, asyncio.Lock] = WeakValueDictionary()
        self._windows: OrderedDict[str, tuple[Window, bytes]] = OrderedDict()

    async def open_blocks(self, window: Snapshot, beside: Arm | None = None) -> Blocks:
        """Raises NotFoundError or CorruptBlobError if the window's file is not there as it was when it is first read."""

        async def read() -> bytes:
            return await asyncio.to_thread(self._blobs.get, window.hash)

        return await self._blocks(window.hash, read, f"{self._secret}:{window.hash}", beside)

    async def sealed_blocks(self, window: Snapshot, beside: Arm | None = None, *, seed: int) -> Blocks:
        """Raises NotFoundError if they are not in the store, NotFoundError or CorruptBlobError for the open half."""

        async def read() -> bytes:
            async with self._store.begin() as unit:
                return await unit.snapshots.sealed(window.sealed_hash)

        lead = await self.open_blocks(window, beside)
        blocks = await self._blocks(window.sealed_hash, read, f"{seed}", beside)
        return replace(blocks, lead=lead.packed)

    async def run(self, arm: Arm, blocks: Blocks) -> list[Replay]:
        """Every load with every seed, by load and then seed. Raises FailedReplayError."""
        return list(await asyncio.gather(*(self._one(arm, blocks, *cell) for cell in self._cells(blocks))))

    async def run_ahead(self, arm: Arm, blocks: Blocks) -> None:
        """The same for later, one replay at a time, so that what is wanted now can go between. Raises FailedReplayError."""
        for cell in self._cells(blocks):
            await self._one(arm, blocks, *cell)

    def _cells(self, blocks: Blocks) -> Iterator[tuple[float, int]]:
        return product(self._settings.loads, blocks.seeds)

    async def _blocks(
        self, name: str, read: Callable[[], Awaitable[bytes]], seed: str, beside: Arm | None
    ) -> Blocks:
        draw = random.Random(seed)
        seeds = tuple(draw.getrandbits(31) for _ in range(self._settings.seeds))
        window, packed = await self._window(name, read)
        return Blocks(name, window, packed, seeds, beside)

    async def _window(self, name: str, read: Callable[[], Awaitable[bytes]]) -> tuple[Window, bytes]:
        """Decoded, and packed for the jail, once: the name is the hash of the bytes, so they are the same ever after."""
        if name not in self._windows:
            data = await read()
            window = (await asyncio.to_thread(read_snapshot, data)).window
            self._windows[name] = window, pack(window)
            while len(self._windows) > WINDOWS:
                self._windows.popitem(last=False)
        self._windows.move_to_end(name)
        return self._windows[name]

    async def _one(self, arm: Arm, blocks: Blocks, load: float, seed: int) -> Replay:
        key = (arm.hash, blocks.beside.hash if blocks.beside else "", blocks.name, load, seed)
        async with self._locks.setdefault(key, asyncio.Lock()):
            if key not in self._done:
                async with self._slots:
                    self._done[key] = await self._simulate(arm, blocks, load=load, seed=seed)
                while len(self._done) > KEPT:
                    self._done.popitem(last=False)
            self._done.move_to_end(key)
            return self._done[key]
