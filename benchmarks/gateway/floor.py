"""The floor: every connection is tied to one server and its bytes are copied. No request is looked at, none is counted.

`python floor.py --port 9000 URL URL …`
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
from typing import cast
from urllib.parse import urlsplit

import uvloop


class Pipe(asyncio.Protocol):
    """One side of a connection."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.other: Pipe | None = None
        self._early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def join(self, other: Pipe) -> None:
        self.other, other.other = other, self
        for data in self._early:
            self.data_received(data)

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self._early.append(data)
        elif self.other.transport is not None:
            self.other.transport.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()


async def serve(port: int, urls: list[str]) -> None:
    loop, targets, tasks = asyncio.get_running_loop(), itertools.cycle(map(urlsplit, urls)), set()

    async def connect(client: Pipe) -> None:
        target = next(targets)
        _, server = await loop.create_connection(Pipe, target.hostname or "127.0.0.1", target.port or 80)
        client.join(server)

    class Front(Pipe):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            task = loop.create_task(connect(self))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    await loop.create_server(Front, "127.0.0.1", port)
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("urls", nargs="+")
    arguments = parser.parse_args()
    uvloop.run(serve(arguments.port, arguments.urls))
