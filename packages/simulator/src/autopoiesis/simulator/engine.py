"""What goes into a simulated engine and what comes out: shared by the fast replica and the stepping oracle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import msgspec

RequestId = int | str


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Limits of one engine, named as vLLM names them where it has a name."""

    kv_capacity_tokens: int
    max_batched_tokens: int = 2048
    """Tokens of one step (`max_num_batched_tokens`), shared by prompt chunks and decoding sequences."""
    max_running: int = 256
    """Sequences in the batch (`max_num_seqs`)."""
    block_tokens: int = 16
    """KV page."""
    prefix_block_tokens: int = 0
    """Tokens behind each of a job's block hashes, a multiple of `block_tokens`; 0 turns the prefix cache off."""
    reserve_full_prompt: bool = True
    """Admit only when the whole prompt would fit, not just its first chunk (`scheduler_reserve_full_isl`)."""
    async_scheduling: bool = False
    """The next step is planned while one runs (see `lookahead`). vLLM does so by default since 0.14, but not on processors."""

    def __post_init__(self) -> None:
        if min(self.block_tokens, self.max_running) < 1:
            raise ValueError("block_tokens and max_running must be at least 1")
        if self.max_batched_tokens < self.max_running:
            raise ValueError(
                f"max_batched_tokens = {self.max_batched_tokens} is below max_running = {self.max_running}"
            )
        if self.kv_capacity_tokens < self.block_tokens:
            raise ValueError(
                f"kv_capacity_tokens = {self.kv_capacity_tokens}: not even one block of {self.block_tokens}"
            )
        if self.prefix_block_tokens < 0 or self.prefix_block_tokens % self.block_tokens:
            raise ValueError(
                f"prefix_block_tokens = {self.prefix_block_tokens}: must be a multiple of block_tokens = {self.block_tokens}"
            )

    @property
    def kv_blocks(self) -> int:
        return self.kv_capacity_tokens // self.block_tokens


class Job(msgspec.Struct):
    """One request for an engine. `output_tokens` is what it will generate: no scheduler decision reads it."""

    id: RequestId
    prompt_tokens: int
    output_tokens: int
    priority: int = 0
    """Lower goes first; equal ones in order of submission."""
    block_hashes: tuple[int, ...] = ()
    """Chained hashes of the leading blocks of the prompt; may go on into the output, for later turns to hit."""
    produced: int = 0
    """Tokens generated elsewhere before. The KV cache of all but the last of these, and of the prompt, comes with the job."""
    cached_tokens: int = 0
    """Written by the engine: tokens of the prompt that its prefix cache held when it began."""


class Emission(NamedTuple):
    """`tokens` more tokens of request `id` came out at `time` (s)."""

    id: RequestId
    time: float
    tokens: int
    finished: bool
    started: float
    """When the engine last began to compute its prompt, s."""


class ReplicaStats(NamedTuple):
    """What an engine would report at one moment. `queued_prefill_tokens` counts prompt tokens not computed yet."""

    running: int
    waiting: int
    queued_prefill_tokens: int
    kv_used_tokens: int
    kv_capacity_tokens: int
    step_time: float
    prefix_queries: int
    prefix_hits: int
    preemptions: int


class Model(Protocol):
    """A simulated engine: the fast replica, or the oracle. Times are seconds on the caller's clock and never fall."""

    next_event: float
    """When the batch may next change; infinite when idle."""
    steps: int
    busy_s: float
    layer_tokens: int
    """Tokens that passed the layers."""
    kv_tokens_read: int
    """KV tokens that decoding sequences read."""
    kv_peak_tokens: int
    tokens_out: int
    preemptions: int
    prefix_queries: int
    prefix_hits: int
    gaps: dict[int, int]
    """Inter-token gaps counted in logarithmic bins, where the model counts them."""

    @property
    def evictions(self) -> int: ...

    def submit(self, now: float, job: Job) -> None: ...
    def restore(self, now: float, job: Job, produced: int) -> None: ...
    def cancel(self, now: float, job_id: RequestId) -> bool: ...
    def advance(self, to: float) -> list[Emission]: ...
    def stats(self, now: float) -> ReplicaStats: ...
    def reuse(self, now: float) -> None: ...
    def evicted(self, before: int) -> tuple[int, ...]: ...
    def drop_all(self) -> list[RequestId]: ...


class TooLongError(ValueError):
    """The request could never finish on this engine: prompt and output exceed its whole KV cache."""


def check(job: Job, config: EngineConfig) -> None:
    """Raises `ValueError` for impossible lengths, `TooLongError` for a job that does not fit in an empty engine."""
    if job.prompt_tokens < 1 or job.output_tokens < 1:
        raise ValueError(
            f"job {job.id}: prompt {job.prompt_tokens} and output {job.output_tokens} tokens must be at least 1"
        )
    if not 0 <= job.produced < job.output_tokens:
        raise ValueError(f"job {job.id}: {job.produced} of {job.output_tokens} output tokens produced before")
    if job.prompt_tokens + job.output_tokens - 1 > config.kv_blocks * config.block_tokens:
        raise TooLongError(
            f"job {job.id}: {job.prompt_tokens} prompt and {job.output_tokens} output tokens exceed the KV cache of "
            f"{config.kv_blocks * config.block_tokens} tokens"
        )
