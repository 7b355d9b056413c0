"""Settings of the router, section `router` of the configuration."""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec

from autopoiesis.runtime.settings import Port, Secret, Section

_Seconds = Annotated[float, msgspec.Meta(gt=0.0)]
_Count = Annotated[int, msgspec.Meta(ge=1)]


class ModelSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a model beforehand; models of replicas that report are served without."""

    context_tokens: _Count | None = None
    """Longest prompt and answer together; unset, the largest KV capacity of a replica bounds an answer."""
    max_tokens: _Count | None = None
    """Assumed where a chat request sets no limit."""


class RouterSettings(Section, frozen=True, kw_only=True):
    prefix: ClassVar[str] = "router"
    host: str = "127.0.0.1"
    port: Port = 8000
    """0 takes a free one."""
    name: str = "router"
    """Names this router in telemetry; routers side by side may share it."""
    policy: str = "round_robin"
    """Shipped policy in force until an activation arrives (epoch 0)."""
    seed: int = 0
    """Of the random numbers that policies see."""
    attach: tuple[str, ...] = ()
    """URLs of OpenAI-compatible servers that are served directly, with all models they list, also while the bus is away."""
    attach_key: Secret = Secret()
    """API key that the attached servers want."""
    attach_gpu: str = "unknown"
    """GPU type of the attached servers, for policies and reports."""
    attach_priority: bool = False
    """Pass priorities on to the attached servers, as `priority` in the body: vLLM needs `--scheduling-policy priority` for it."""
    models: dict[str, ModelSettings] = msgspec.field(default_factory=dict)
    default_max_tokens: _Count = 4096
    """Assumed for chat requests without a limit, where `models` says nothing."""
    passthrough: tuple[str, ...] = (
        "/v1/",
        "/v2/",
        "/tokenize",
        "/detokenize",
        "/score",
        "/rerank",
        "/pooling",
        "/classify",
    )
    """Prefixes of further paths whose POST requests go to an engine as they are; empty passes none."""
    max_choices: _Count = 16
    """Largest `n` of one request."""
    max_prompts: _Count = 256
    """Most prompts of one text completion."""
    max_body_bytes: _Count = 16 << 20
    """Longer bodies are answered 413; what goes over the bus is also bound by its server's `max_payload` (8 MB as shipped)."""
    max_upload_bytes: _Count = 512 << 20
    """The same for what goes on to attached servers unread (forms, audio, …); beyond the first MiB it is not kept here."""
    keys: str = ""
    """File of API keys, made by `autopoiesis keys`; empty lets everybody in."""
    anonymous: bool = False
    """Listen on other than loopback addresses without keys: whoever reaches the port may use every model."""
    admin_token: Secret = Secret()
    """Bearer token of the admin endpoints, beside keys of scope admin; without either they answer to loopback alone."""
    tls_certificate: str = ""
    """PEM file of the certificate chain; empty serves plain HTTP."""
    tls_key: str = ""
    """PEM file of its private key, where the certificate's file does not hold it."""
    request_timeout_s: _Seconds = 600.0
    """Arrival to deadline."""
    silence_s: _Seconds = 5.0
    """A replica without a sign of life for so long loses its requests."""
    stall_s: _Seconds = 15.0
    """A stream on which nothing comes for so long fails; workers send something at least every third of it."""
    ping_s: _Seconds = 15.0
    """Streams that bring nothing get a comment this often; the first one sends the headers."""
    listen_s: Annotated[float, msgspec.Meta(ge=0.0)] = 0.5
    """How long a fresh router listens to heartbeats before it answers: it would deny models it has not heard of yet."""
    drain_s: Annotated[float, msgspec.Meta(ge=0.0)] = 20.0
    """How long requests may still run after SIGTERM."""
    telemetry_interval_s: _Seconds = 0.5
    """Longest wait of a telemetry record before it is sent."""
    telemetry_records: _Count = 50_000
    """Records kept while the bus is away; beyond it the oldest are dropped and counted."""
    record: str = ""
    """File to which every event and decision is written, for replay; empty records nothing."""
    max_reject_share: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)] = 0.1
    """Most of the last minute's arrivals that a policy may reject."""
    admit_ttft_factor: Annotated[float, msgspec.Meta(ge=0.0)] = 0.0
    """Requests whose first token would come later than so many times their objective at every replica get 429; 0 admits all."""
    max_queue: Annotated[int, msgspec.Meta(ge=0)] = 10_000
    """Requests held per model."""
    hold_max_s: Annotated[float, msgspec.Meta(ge=0.0)] = 20.0
    """Longest time a policy may hold a request."""
    no_replica_wait_s: Annotated[float, msgspec.Meta(ge=0.0)] = 5.0
    """How long requests wait for a model without a ready replica."""
    suspect_after_s: _Seconds = 1.0
    """A replica silent this long is not offered to policies."""
    max_attempts: _Count = 2
    """Sends of one request, the first included, until its first token; those to replicas that turn out to be leaving do not count."""
    max_resumes: Annotated[int, msgspec.Meta(ge=0)] = 3
    """How often a stream may go on at another replica after its first token."""
    hedge_share: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)] = 0.0
    """Most of all requests that may get a second attempt at another replica when a stream's first token is late; 0 makes none."""
    hedge_after_s: _Seconds = 1.0
    """Late is no sooner than so long after the send,"""
    hedge_quantile: Annotated[float, msgspec.Meta(gt=0.0, lt=1.0)] = 0.95
    """nor before such a share of the last first tokens of the model had come."""
