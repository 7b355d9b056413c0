"""Who asks and what they expect: class, objectives, session, tenant and workflow, from headers.

Names of people, sessions and keys never leave this process as they are: they are hashed with the installation's key.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from autopoiesis.contracts.slo import Objectives
from autopoiesis.router.errors import BadRequestError

_CLASS: Final = (b"x-slo-class", b"x-gateway-inference-objective")
_WANTED: Final = frozenset(
    {
        *_CLASS,
        b"x-slo-ttft-ms",
        b"x-slo-tpot-ms",
        b"x-session-id",
        b"x-tenant-id",
        b"x-workflow-id",
        b"authorization",
        b"traceparent",
        b"tracestate",
    }
)


REMEMBERED: Final = 4096
"""Askers whose headers were read before, and need not be again."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What headers say of one request. Empty strings: unknown."""

    klass: str
    priority: int
    ttft_slo_s: float | None
    tpot_slo_s: float | None
    session: str
    tenant: str
    workflow: str
    trace: dict[str, str]
    """W3C trace context as it came."""


class Identities:
    """Reads headers under one set of objectives and one installation key (at most 64 bytes)."""

    def __init__(self, objectives: Objectives, key: bytes) -> None:
        self._objectives = objectives
        self._key = key
        self._known: dict[tuple[object, ...], Identity] = {}

    def read(self, headers: Iterable[tuple[bytes, bytes]], tenant: bytes = b"") -> Identity:
        """`tenant`, where it is known for certain, counts before headers. Raises BadRequestError naming the header that is wrong."""
        wanted = [header for header in headers if header[0] in _WANTED]
        asked = (tenant, *wanted)
        known = self._known.get(asked)
        if known is None:
            known = self._read(dict(wanted), tenant)
            if not known.trace:  # each is another
                if len(self._known) >= REMEMBERED:
                    self._known.clear()
                self._known[asked] = known
        return known

    def _read(self, found: dict[bytes, bytes], tenant: bytes) -> Identity:
        klass = self._klass(found)
        objective = self._objectives.of(klass)
        tenant = tenant or found.get(b"x-tenant-id") or found.get(b"authorization", b"")
        return Identity(
            klass=klass,
            priority=objective.priority,
            ttft_slo_s=_seconds(found, b"x-slo-ttft-ms", objective.ttft_s),
            tpot_slo_s=_seconds(found, b"x-slo-tpot-ms", objective.tpot_s),
            session=self.pseudonym(found.get(b"x-session-id", b"")),
            tenant=self.pseudonym(tenant),
            workflow=self.pseudonym(found.get(b"x-workflow-id", b"")),
            trace={
                name.decode(): found[name].decode("latin-1")
                for name in (b"traceparent", b"tracestate")
                if name in found
            },
        )

    def pseudonym(self, name: bytes) -> str:
        """Sixteen hexadecimal digits that stand for `name` in this installation; empty for an empty name."""
        return blake2b(name, digest_size=8, key=self._key).hexdigest() if name else ""

    def _klass(self, found: dict[bytes, bytes]) -> str:
        for header in _CLASS:
            named = found.get(header, b"").decode("latin-1")
            if named in self._objectives.classes:
                return named
        return self._objectives.default


def _seconds(found: dict[bytes, bytes], header: bytes, default: float | None) -> float | None:
    """An objective given in milliseconds, as seconds."""
    value = found.get(header)
    if value is None:
        return default
    try:
        milliseconds = float(value)
    except ValueError:
        milliseconds = math.nan
    if not 0.0 < milliseconds < math.inf:
        name = header.decode()
        raise BadRequestError(
            f"invalid value for header {name}: expected milliseconds above 0", name, "invalid_value"
        )
    return milliseconds / 1000.0
