"""A body that goes on to its server while it still comes from its client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

STREAMED_FROM: Final = 1 << 20
"""Bytes up to which a body is read whole first: as long as it is here, another server can have it."""


class Upload:
    """Its client is read no faster than its server takes it, and not at all before there is one."""

    def __init__(
        self, first: bytes, length: int | None, hold: Callable[[], None], release: Callable[[], None]
    ) -> None:
        """`first` is what has come of `length` bytes, none where the client does not say; `hold` stops reading it."""
        self.length = length
        self.complete = False
        """All of it has come."""
        self.taken = False
        """A server has had the beginning, so that no other one can."""
        self._waiting = [first]
        self._hold = hold
        self._release = release
        self._server: asyncio.Transport | None = None
        hold()

    @property
    def head(self) -> bytes:
        """The header that tells the server how it ends."""
        if self.length is None:
            return b"transfer-encoding: chunked\r\n"
        return b"content-length: %d\r\n" % self.length

    def feed(self, piece: bytes) -> None:
        if self._server is None:
            self._waiting.append(piece)
        else:
            self._write(piece)

    def finish(self) -> None:
        self.complete = True
        if self._server is not None and self.length is None:
            self._server.write(b"0\r\n\r\n")

    def begin(self, server: asyncio.Transport) -> None:
        """`server` takes it, its head was written."""
        self.taken, self._server = True, server
        for piece in self._waiting:
            self._write(piece)
        self._waiting.clear()
        if self.complete:
            self.finish()
        self._release()

    def pause(self) -> None:
        """The server does not keep up."""
        self._hold()

    def resume(self) -> None:
        self._release()

    def _write(self, piece: bytes) -> None:
        assert self._server is not None
        self._server.write(b"%x\r\n%b\r\n" % (len(piece), piece) if self.length is None else piece)
