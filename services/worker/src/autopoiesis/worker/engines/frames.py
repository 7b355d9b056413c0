"""What the node's worker and the process of one engine say to each other: frames of JSON on a socket of theirs.

JSON and not MessagePack, because bodies and deltas travel as the JSON they are.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final, Generic, TypeVar

import msgspec

from autopoiesis.contracts.messages.infer import Generate
from autopoiesis.contracts.messages.telemetry import StepRecord
from autopoiesis.worker.engines.base import EngineStats, Output

_LENGTH_BYTES: Final = 4
_READ_LIMIT: Final = 1 << 20

M = TypeVar("M")


class Configure(msgspec.Struct, frozen=True, kw_only=True, tag="configure"):
    """The first frame: what to run."""

    replica: str
    model: str
    """Name that clients use."""
    checkpoint: str
    """Folder or hub name of the weights."""
    arguments: tuple[str, ...] = ()
    """Of the engine's own command line."""
    block_reports: bool = True
    """Watch which prompt blocks leave the prefix cache."""
    sleeps: bool = False
    """It is to be able to sleep, where its platform can."""


class Run(msgspec.Struct, frozen=True, tag="run"):
    request: Generate


class Abort(msgspec.Struct, frozen=True, tag="abort"):
    request_id: str


class Sleep(msgspec.Struct, frozen=True, tag="sleep"):
    """Give the accelerator's memory back. Level 1 keeps the weights in host memory, 2 drops them."""

    level: int = 1


class Wake(msgspec.Struct, frozen=True, tag="wake"):
    pass


ToEngine = Configure | Run | Abort | Sleep | Wake


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """How far loading is: a share from 0 to 1."""

    share: float


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag="ready"):
    version: str
    """Of the engine's software."""
    sleeps: bool = False
    """It takes `Sleep` and `Wake`."""


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The engine can never run here as it is configured; starting it again would not help."""

    message: str


class Said(msgspec.Struct, frozen=True, tag="said"):
    """More of the answer to one request, or its end."""

    request_id: str
    output: Output


class Seen(msgspec.Struct, frozen=True, kw_only=True, tag="seen"):
    """The engine's load, and steps sampled since the last time."""

    stats: EngineStats
    steps: tuple[StepRecord, ...] = ()


class Slept(msgspec.Struct, frozen=True, tag="slept"):
    """Answers `Sleep` and `Wake`; `error` where the engine cannot."""

    asleep: bool
    error: str = ""


ToNode = Progress | Ready | Refused | Said | Seen | Slept


class Link(Generic[M]):
    """Frames over one connected socket. `receives` is the union of what comes in."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, receives: type[M] | object
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder: msgspec.json.Decoder[M] = msgspec.json.Decoder(receives)
        self._encoder = msgspec.json.Encoder()

    @classmethod
    async def over(cls, connected: socket.socket, receives: type[M] | object) -> Link[M]:
        reader, writer = await asyncio.open_connection(sock=connected, limit=_READ_LIMIT)
        return cls(reader, writer, receives)

    def send(self, frame: ToEngine | ToNode) -> None:
        """Never blocks; a peer that has gone is noticed by `receive`."""
        data = self._encoder.encode(frame)
        self._writer.write(len(data).to_bytes(_LENGTH_BYTES, "big") + data)

    async def flush(self) -> None:
        await self._writer.drain()

    async def receive(self) -> M | None:
        """The next frame, none when the peer has gone. Raises `msgspec.MsgspecError` for what is no frame."""
        try:
            length = int.from_bytes(await self._reader.readexactly(_LENGTH_BYTES), "big")
            return self._decoder.decode(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    def close(self) -> None:
        self._writer.close()
