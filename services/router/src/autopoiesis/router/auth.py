"""Who may ask: API keys of requests, their scopes and limits.

Limits are per key and router, and simple: what a gateway's quotas do is a gateway's job.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import structlog

from autopoiesis.router.errors import ApiError
from autopoiesis.router.keys import Key, KeyScope, digest, load, parts
from autopoiesis.runtime.errors import OperatorError

log = structlog.get_logger(__name__)

Headers = Iterable[tuple[bytes, bytes]]
CHECK_S: Final = 1.0
"""How often the file is looked at: a revoked key is refused no later than this."""
_NOBODY: Final = "0" * 64


class _Use:
    """What one key uses now. `left` requests of its minute's allowance at time `at`."""

    __slots__ = ("at", "in_flight", "left")

    def __init__(self, left: float, at: float) -> None:
        self.left = left
        self.at = at
        self.in_flight = 0


class Visit:
    """One request that was let in; `leave` must be called when it ends."""

    __slots__ = ("_use", "tenant")

    def __init__(self, tenant: bytes = b"", use: _Use | None = None) -> None:
        self.tenant = tenant
        """The key's id; empty where no keys are wanted."""
        self._use = use

    def leave(self) -> None:
        if self._use is not None:
            self._use.in_flight -= 1
            self._use = None


_ANYBODY: Final = Visit()


class Doorkeeper:
    """Lets everybody in without a file of keys; with one, only those who show a key of it."""

    def __init__(self, path: Path | None, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises OperatorError where the file is not readable."""
        self._path = path
        self._clock = clock
        self._uses: dict[str, _Use] = {}
        self._stamp = self._look()
        self._keys: dict[str, Key] = load(path) if path else {}
        self._good: dict[str, Key] = {}
        """Keys by their text, of those that were shown: hashing them again costs more than all else here."""
        self._unlimited: dict[str, Visit] = {}

    @property
    def closed(self) -> bool:
        """Whether keys are wanted."""
        return self._path is not None

    def enter(self, headers: Headers) -> Visit:
        """Raises ApiError: 401 without a valid key, 403 for one of another scope, 429 beyond its limits."""
        if self._path is None:
            return _ANYBODY
        key = self.identify(headers, "inference")
        if not (key.requests_per_minute or key.concurrent):
            visit = self._unlimited.get(key.id)
            if visit is None:
                visit = self._unlimited[key.id] = Visit(key.id.encode())
            return visit
        now = self._clock()
        use = self._uses.get(key.id)
        if use is None:
            use = self._uses[key.id] = _Use(float(key.requests_per_minute), now)
        if key.requests_per_minute:
            rate = key.requests_per_minute / 60.0
            use.left = min(float(key.requests_per_minute), use.left + (now - use.at) * rate)
            use.at = now
            if use.left < 1.0:
                what = f"{key.requests_per_minute} requests per minute"
                raise _limited(key, what, (1.0 - use.left) / rate)
        if key.concurrent and use.in_flight >= key.concurrent:
            raise _limited(key, f"{key.concurrent} requests at a time", 1.0)
        if key.requests_per_minute:
            use.left -= 1.0
        use.in_flight += 1
        return Visit(key.id.encode(), use)

    def identify(self, headers: Headers, scope: KeyScope) -> Key:
        """The key that `headers` show. Raises ApiError: 401 where there is no valid one, 403 for one without `scope`."""
        text = _shown(headers)
        key = self._good.get(text) or self._recognize(text)
        if key is None:
            raise ApiError(
                401,
                "this router wants a valid API key, as `Authorization: Bearer apo-…` or `x-api-key`",
                type="authentication_error",
                code="invalid_api_key",
            )
        if scope not in key.scopes:
            message = f"API key {key.id} has no scope {scope}, but: {', '.join(key.scopes)}"
            raise ApiError(403, message, type="permission_error", code="insufficient_scope")
        return key

    def _recognize(self, text: str) -> Key | None:
        identity, secret = parts(text)
        key = self._keys.get(identity)
        known = hmac.compare_digest(digest(secret), key.sha256 if key else _NOBODY)
        if key is None or not known or key.revoked_unix_s is not None:
            return None
        self._good[text] = key
        return key

    async def watch(self) -> None:
        """Read the file again whenever it changed; one that cannot be read leaves the keys as they were."""
        while self._path is not None:
            await asyncio.sleep(CHECK_S)
            self.refresh()

    def refresh(self) -> None:
        stamp = self._look()
        if self._path is None or stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._keys = load(self._path)
            self._good.clear()
        except OperatorError as error:
            log.error("API keys stay as they were", error=str(error))
        else:
            log.info("API keys read", keys=len(self._keys))

    def _look(self) -> tuple[int, int, int]:
        try:
            seen = self._path.stat() if self._path else None
        except OSError:
            seen = None
        return (seen.st_mtime_ns, seen.st_size, seen.st_ino) if seen else (0, 0, 0)


def _shown(headers: Headers) -> str:
    for name, value in headers:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return value[7:].strip().decode("latin-1")
        if name == b"x-api-key":
            return value.strip().decode("latin-1")
    return ""


def _limited(key: Key, limit: str, wait_s: float) -> ApiError:
    return ApiError(
        429,
        f"API key {key.id} is limited to {limit} on this router",
        type="rate_limit_error",
        code="rate_limit_exceeded",
        retry_after_s=max(1.0, wait_s),
    )
