"""One transport over two: attached servers are reached directly, all other replicas over the bus."""

from __future__ import annotations

import asyncio

from autopoiesis.contracts.messages.infer import Failed, FailureCode, Generate
from autopoiesis.router.transports.bus import BusTransport
from autopoiesis.router.transports.direct import DirectTransport
from autopoiesis.router.transports.port import Replies
from autopoiesis.router.upload import Upload


class Transports:
    """`Transport`. `replies` must be set before the first send."""

    def __init__(self, bus: BusTransport, direct: DirectTransport) -> None:
        self.bus = bus
        self.direct = direct

    @property
    def replies(self) -> Replies:
        return self.bus.replies

    @replies.setter
    def replies(self, replies: Replies) -> None:
        self.bus.replies = self.direct.replies = replies

    @property
    def connected(self) -> bool:
        return self.bus.connected

    @property
    def direct_ready(self) -> bool:
        return any(server.state == "ready" for server in self.direct.servers.values())

    def send(
        self, replica: str, generate: Generate, headers: dict[str, str], upload: Upload | None = None
    ) -> None:
        server = self.direct.reaches(replica)
        if server is None and generate.endpoint == "relay":
            message = f"only servers attached to this router answer {generate.method} {generate.path}"
            failed = Failed(seq=0, code="invalid_request", message=message, status=405)
            asyncio.get_running_loop().call_soon(self.replies.on_reply, generate.request_id, failed)
        elif server is None:
            self.bus.send(replica, generate, headers)
        else:
            self.direct.send(server, replica, generate, headers, upload)

    def cancel(self, wire: str, reason: FailureCode) -> None:
        self.direct.cancel(wire, reason)
        self.bus.cancel(wire, reason)

    def close(self, wire: str) -> None:
        self.direct.close(wire)
        self.bus.close(wire)

    def pause(self, wire: str) -> None:
        self.direct.pause(wire)

    def resume(self, wire: str) -> None:
        self.direct.resume(wire)
