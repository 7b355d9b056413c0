"""Between an engine that makes tokens and a stream that sends them: merges what comes too fast."""

from __future__ import annotations

import asyncio
from collections import deque

from autopoiesis.worker.engines.base import Broken, Ended, Output, Piece


class Outputs:
    """Async iterator over one request's outputs.

    The first piece goes out at once, later ones merged every `interval_s` seconds, the end at once. With `whole` everything
    waits for the end.
    """

    def __init__(self, *, interval_s: float, whole: bool) -> None:
        self.ended = False
        self._interval_s = interval_s
        self._whole = whole
        self._loop = asyncio.get_running_loop()
        self._held: list[Output] = []
        self._ready: deque[Output] = deque()
        self._texts: list[str] = []
        self._ids: list[int] = []
        self._tokens = 0
        self._index = 0
        self._next_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._over = False

    def push(self, piece: Piece) -> None:
        """More of the answer. Ignored after the end."""
        if self.ended:
            return
        if not piece.merges:
            self._merge()
            self._held.append(piece)
        else:
            if piece.index != self._index:
                self._merge()
            self._index = piece.index
            self._texts.append(piece.text)
            self._ids.extend(piece.token_ids)
            self._tokens += piece.tokens
        if self._whole or self._timer is not None:
            return
        now = self._loop.time()
        if now >= self._next_at:
            self._flush()
        else:
            self._timer = self._loop.call_at(self._next_at, self._flush)

    def end(self, end: Ended | Broken) -> None:
        """The last output. The first of several ends counts."""
        if self.ended:
            return
        self.ended = True
        self._merge()
        self._held.append(end)
        self._flush()

    def __aiter__(self) -> Outputs:
        return self

    async def __anext__(self) -> Output:
        if self._over:
            raise StopAsyncIteration
        while not self._ready:
            self._waiter = self._loop.create_future()
            await self._waiter
        output = self._ready.popleft()
        self._over = not isinstance(output, Piece)
        return output

    def _merge(self) -> None:
        if self._texts:
            text = "".join(self._texts)
            self._held.append(Piece(text, self._tokens, self._index, token_ids=tuple(self._ids)))
            self._texts, self._ids = [], []
            self._tokens = 0

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._merge()
        self._ready.extend(self._held)
        self._held.clear()
        self._next_at = self._loop.time() + self._interval_s
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
