"""What the worker asks of an engine, whatever runs behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import msgspec

from autopoiesis.contracts.messages.fleet import ReplicaState, StepModel
from autopoiesis.contracts.messages.infer import FailureCode, FinishReason, Generate
from autopoiesis.contracts.messages.telemetry import StepRecord

if TYPE_CHECKING:
    MaybeRaw = msgspec.Raw | None
else:
    MaybeRaw = msgspec.Raw  # msgspec reads Raw in no union; what is left out stays None


class EngineStartError(Exception):
    """The engine is not usable now; the message says what was tried and what to check."""


class Piece(msgspec.Struct, frozen=True, gc=False, tag="piece", omit_defaults=True):
    """Tokens of one choice since its last piece."""

    text: str = ""
    tokens: int = 0
    index: int = 0
    token_ids: tuple[int, ...] = ()
    """Of these tokens, where the engine tells: with them the stream can go on at another replica."""
    delta: MaybeRaw = None
    """OpenAI delta object where text alone does not say it."""
    choice: MaybeRaw = None
    """OpenAI's whole choice object where text and delta do not say it (log-probabilities)."""
    finish_reason: FinishReason | None = None
    """This choice ended so, where several choices may end differently."""

    @property
    def merges(self) -> bool:
        """Nothing but text and tokens: may be joined with the next one of its choice."""
        return self.delta is None and self.choice is None and self.finish_reason is None


class Ended(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag="ended", omit_defaults=True):
    """The request ended well."""

    finish_reason: FinishReason
    prompt_tokens: int
    output_tokens: int
    """Of the whole answer, those included that the client had before it was resumed here."""
    cached_tokens: int = 0
    first_token_s: float = 0.0
    """Seconds from `generate` to the first token."""
    body: MaybeRaw = None
    """The engine's complete OpenAI answer, of requests that do not stream."""
    content: bytes = b""
    """The engine's complete answer where it is not JSON."""
    content_type: str = ""
    kv_transfer: MaybeRaw = None
    """JSON object for the engine that decodes, of requests that only compute the prompt."""


class Broken(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag="broken", omit_defaults=True):
    """The request did not end well."""

    code: FailureCode
    message: str
    param: str | None = None
    output_tokens: int = 0
    """Of the whole answer, like `Ended.output_tokens`."""
    status: int = 0
    """The engine's HTTP status where it says more than `code`."""


Output = Piece | Ended | Broken


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """The engine's part of a heartbeat, in its units (`Heartbeat` says them)."""

    state: ReplicaState
    progress: float = 1.0
    running: int = 0
    waiting: int = 0
    queued_prefill_tokens: int = 0
    kv_used_tokens: int = 0
    kv_capacity_tokens: int = 0
    kv_token_bytes: int = 0
    link_bandwidth: float = 0.0
    network_bandwidth: float = 0.0
    max_running: int = 0
    step_time_s: float = 0.0
    step_model: StepModel | None = None
    prefix_queries: int = 0
    prefix_hits: int = 0
    restarts: int = 0
    """How often the engine died and was started again; what was known of its caches is void then."""
    adapters: tuple[str, ...] = ()
    evictions: int = 0
    evicted: tuple[int, ...] = ()


class Engine(Protocol):
    """One model on one set of GPUs (or a server that has them)."""

    model: str
    changed: asyncio.Event
    """Set when the state changed: the next heartbeat goes out at once. Cleared by whoever waits for it."""

    async def start(self) -> None:
        """Load, and return when requests can run. Raises `EngineStartError`; the engine may become ready later all the same."""

    def generate(self, request: Generate) -> AsyncIterator[Output]:
        """Take the request now, so that `stats` counts it; its pieces, then one `Ended` or `Broken`. Never raises."""

    def cancel(self, request_id: str, reason: FailureCode) -> None:
        """End a request with `Broken(reason)`; nothing happens where it is not here (any more)."""

    def stats(self) -> EngineStats: ...

    def steps(self) -> list[StepRecord]:
        """Sampled steps since the last call; empty where the engine does not show its steps."""

    async def drain(self) -> None:
        """Return when every request has ended. The caller has stopped sending."""

    async def stop(self) -> None:
        """End what still runs with `unavailable` and free everything."""
