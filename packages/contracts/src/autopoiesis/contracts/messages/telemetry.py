"""What happened: one record per arrival, and sampled engine steps. Never prompt or completion text."""

from typing import Literal

import msgspec

from autopoiesis.contracts import slo

Outcome = Literal["finished", "rejected", "cancelled", "failed", "expired"]


class RequestRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One arrival and what became of it."""

    request_id: str
    scope: str
    model: str
    arrival_unix_s: float
    stream: bool
    prompt_bytes: int
    prompt_tokens: int
    """The engine's count where it answered, else the router's estimate."""
    prompt_tokens_estimated: int
    max_tokens: int
    output_tokens: int
    output_censored: bool
    """True where generation was cut short, so that the true length is at least `output_tokens`."""
    outcome: Outcome
    error: str = ""
    klass: str = ""
    priority: int = 0
    tenant: str = ""
    session: str = ""
    workflow: str = ""
    block_hashes: tuple[int, ...] = ()
    ttft_slo_s: float | None = None
    tpot_slo_s: float | None = None
    queue_wait_s: float = 0.0
    """Arrival to the last send to a replica (or to the end, if it was never sent)."""
    ttft_s: float | None = None
    """Arrival to first token, none if there was none."""
    tpot_s: float | None = None
    """Mean seconds per output token after the first, none with fewer than two."""
    e2e_s: float = 0.0
    replica: str = ""
    gpu: str = ""
    attempts: int = 0
    holds: int = 0
    """How often `route` answered HOLD."""
    epoch: int = 0
    """Activation that decided it."""
    policy: str = ""
    fallback: bool = False
    """The built-in fallback decided."""
    fuel: int = 0

    @property
    def met(self) -> bool:
        """Whether it met its objectives; what did not finish missed them."""
        return slo.met(
            self.ttft_s,
            self.tpot_s,
            ttft_slo_s=self.ttft_slo_s,
            tpot_slo_s=self.tpot_slo_s,
            finished=self.outcome == "finished",
        )


class RequestBatch(msgspec.Struct, frozen=True, kw_only=True):
    """Records of one router, published on `telemetry.request.<router>`; (router, incarnation, batch) names it once."""

    router: str
    incarnation: str
    batch: int
    records: tuple[RequestRecord, ...]


class StepRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One engine step, or the mean of `steps` alike ones."""

    at_unix_s: float
    duration_s: float
    prefill_tokens: int
    decode_sequences: int
    kv_tokens: int
    steps: int = 1


class StepBatch(msgspec.Struct, frozen=True, kw_only=True):
    """Sampled steps of one replica, published on `telemetry.step.<replica>`."""

    replica: str
    incarnation: str
    batch: int
    model: str
    gpu: str
    tp: int
    records: tuple[StepRecord, ...]
