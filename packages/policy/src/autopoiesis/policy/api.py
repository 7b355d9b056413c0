"""The policy API, version 1: what a policy sees and what it may answer.

Two rules shape it. *Decision logic is the policy's, statistics are ours*: trusted code fills every field below, so a
policy stays short and pure. *Live and simulated views are the same objects*, filled by the same dispatch code.

The views are plain slotted objects that the dispatcher reuses between calls; the language forbids stores, so a policy
cannot change them. Units: every time is seconds, every size tokens, unless the field says otherwise. The comment behind
each field is its documentation: `fields.FIELDS` collects it for the generated pages and for prompts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, get_args

API_VERSION: Final = 1

Kind = Literal["dispatch", "plan"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

FUNCTIONS: Final[dict[Kind, dict[str, tuple[str, ...]]]] = {
    "dispatch": {
        "prioritize": ("request", "ctx"),
        "route": ("request", "replicas", "ctx"),
        "place_decode": ("request", "replicas", "ctx"),
    },
    "plan": {
        "should_reschedule": ("ctx",),
        "schedule": ("ctx",),
    },
}
"""Entry points of each kind and their parameters, in order."""

REQUIRED: Final[dict[Kind, tuple[str, ...]]] = {
    "dispatch": ("prioritize", "route"),
    "plan": ("should_reschedule", "schedule"),
}
"""Entry points that a linked policy must have (its own or its named parent's)."""

Role = Literal["mixed", "prefill", "decode"]


def _unseeded() -> float:
    raise RuntimeError("ctx.random was not seeded for this request")


class Workflow:
    """What is known of the agentic workflow a request belongs to."""

    __slots__ = (
        "age",
        "attained",
        "calls_done",
        "calls_open",
        "horizon",
        "projected_ratio",
        "remaining_path",
    )

    def __init__(self) -> None:
        self.age = 0.0  # s since the workflow's first call arrived
        self.horizon = 0.0  # s, makespan of the calls revealed so far if the workflow ran alone
        self.projected_ratio = 0.0  # (age + projected time to finish) / horizon; larger is more urgent
        self.remaining_path = 0.0  # s, longest path of revealed calls that are not finished
        self.attained = 0.0  # s of service received on the critical path
        self.calls_done = 0  # calls finished
        self.calls_open = 0  # calls waiting or running


class Request:
    """One request as the router knows it: nothing here is measured after the decision."""

    __slots__ = (
        "adapter",
        "arrival",
        "attempts",
        "deadline",
        "expected_output_tokens",
        "max_tokens",
        "modality",
        "model",
        "priority",
        "prompt_tokens",
        "seq",
        "session",
        "session_replica",
        "session_service",
        "tenant",
        "tenant_service",
        "tpot_slo",
        "ttft_slo",
        "waited",
        "workflow",
    )

    def __init__(self) -> None:
        self.seq = 0  # arrival number at this router, rising by one
        self.prompt_tokens = 0  # estimate: the router does not tokenise; bytes x a calibrated ratio per model
        self.max_tokens = 0  # the client's limit, or the model's
        self.expected_output_tokens = 0.0  # predicted from past requests only
        self.arrival = 0.0  # s, on the clock of ctx.now
        self.waited = 0.0  # s since arrival
        self.priority = 0  # class, 0 is the highest
        self.tenant = 0  # small int; equal means the same tenant
        self.session = 0  # small int; equal means the same session, 0 if none
        self.model = 0  # small int; equal means the same model
        self.adapter = 0  # small int; 0 if no LoRA adapter
        self.modality = 0  # 0 text, 1 image, 2 audio
        self.ttft_slo = math.inf  # s to the first token, inf if none
        self.tpot_slo = math.inf  # s per output token after the first, inf if none
        self.deadline = math.inf  # s, absolute time by which the answer is due, inf if none
        self.session_replica = -1  # Replica.id that served this session last, -1 if none is alive
        self.tenant_service = 0.0  # tokens served to this tenant, halved every 60 s
        self.session_service = 0.0  # tokens served to this session, halved every 60 s
        self.attempts = 0  # times this request was sent to a replica that then failed
        self.workflow: Workflow | None = None  # view, or None


class Replica:
    """One replica that is ready for the request's model, as last heard of plus what this router knows itself."""

    __slots__ = (
        "adapter_loaded",
        "fault_rate",
        "gpu",
        "id",
        "index",
        "inflight",
        "kv_capacity_tokens",
        "kv_used_tokens",
        "max_running",
        "node",
        "notice",
        "predicted_tpot",
        "predicted_ttft",
        "preemptible",
        "prefix_hit_tokens",
        "price",
        "queued_prefill_tokens",
        "role",
        "running",
        "stats_age",
        "step_time",
        "tp",
        "transfer_time",
        "uptime",
        "waiting",
        "zone",
    )

    def __init__(self) -> None:
        self.index = 0  # position in `replicas` in this call
        self.id = 0  # stable while the replica lives; 0 <= id < 2**31, hashed from its name
        self.node = 0  # small int; equal means the same machine
        self.zone = 0  # small int; equal means the same zone
        self.gpu = ""  # GPU type label, for instance "H100"
        self.tp = 1  # tensor-parallel degree
        self.role = "mixed"  # "mixed", "prefill" or "decode"
        self.preemptible = False  # may be taken away (spot)
        self.notice = math.inf  # s until an announced loss, inf if none is announced
        self.uptime = 0.0  # s since it became ready
        self.running = 0  # sequences in the engine's batch: heartbeat plus what this router sent since
        self.waiting = 0  # sequences queued in the engine: heartbeat plus what this router sent since
        self.queued_prefill_tokens = 0  # prompt tokens not yet prefilled, running ones included, likewise
        self.kv_used_tokens = 0  # tokens held in the KV cache, likewise
        self.kv_capacity_tokens = 0  # tokens that fit in the KV cache
        self.max_running = 0  # the engine's batch limit (max_num_seqs)
        self.inflight = 0  # requests this router has sent there and that have not ended
        self.prefix_hit_tokens = 0  # prompt tokens of this request believed to be cached there
        self.adapter_loaded = False  # the request's adapter is loaded there
        self.predicted_ttft = 0.0  # s from now to the first token if this request went there now
        self.predicted_tpot = 0.0  # s per output token if this request went there now
        self.step_time = 0.0  # s, mean of the engine's recent steps
        self.stats_age = 0.0  # s since the last heartbeat
        self.fault_rate = 0.0  # share of recent requests that failed there, halved every 60 s
        self.price = 0.0  # money per hour of the whole replica
        self.transfer_time = 0.0  # decode replicas: s to move this request's KV there from the prefill one


class DispatchContext:
    """What is true of the whole queue and fleet at the moment of a dispatch decision."""

    __slots__ = (
        "arrival_rate",
        "arrival_rate_60",
        "attainment",
        "mean_output_tokens",
        "mean_output_tokens_60",
        "mean_prompt_tokens",
        "mean_prompt_tokens_60",
        "now",
        "queue_length",
        "queued_prompt_tokens",
        "random",
        "routers",
    )

    def __init__(self) -> None:
        self.now = 0.0  # s, the router's monotonic clock
        self.queue_length = 0  # requests held in this model's queue
        self.queued_prompt_tokens = 0  # their prompt tokens
        self.arrival_rate = 0.0  # requests per s, last 10 s
        self.arrival_rate_60 = 0.0  # requests per s, last 60 s
        self.mean_prompt_tokens = 0.0  # last 10 s
        self.mean_prompt_tokens_60 = 0.0  # last 60 s
        self.mean_output_tokens = 0.0  # of requests that ended in the last 10 s
        self.mean_output_tokens_60 = 0.0  # of requests that ended in the last 60 s
        self.attainment = 1.0  # share of requests that met their SLO, last 60 s; 1 if none ended
        self.routers = 1  # routers that share this fleet
        self.random: Callable[[], float] = _unseeded  # uniform in [0, 1), seeded by the request


@dataclass(frozen=True, slots=True)
class Assign:
    """Send the request to `replica`, an index into `replicas`.

    `decode` is the index of the decode replica where roles are split (-1: none); `priority` is passed on to the engine's
    own queue, lower first (None: the request's own, its class).
    """

    replica: int
    decode: int = -1
    priority: int | None = None


class _Verdict:
    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


HOLD: Final = _Verdict("HOLD")
"""Keep the request queued; it is offered again when room may have appeared. It expires into the fallback's decision."""
REJECT: Final = _Verdict("REJECT")
"""Answer 429 now, within the operator's maximum reject share."""

RouteDecision = Assign | _Verdict
"""What `route` may return. `_Verdict` is HOLD or REJECT and nothing else."""


@dataclass(frozen=True, slots=True)
class Replicas:
    """One entry of a plan: `count` replicas of `model` (its index) on `gpu` (a type's label) with tensor parallelism `tp`.

    `batch` is the most requests each serves at once, 0 for what the demand asks of it; `share` the part of the model's work
    that the entry takes, 0 for its fair one.
    """

    model: int
    gpu: str
    tp: int
    count: int
    batch: int = 0
    role: Role = "mixed"
    share: float = 0.0


class ModelDemand:
    """A model and the load on it, for plan policies."""

    __slots__ = (
        "arrival_rate",
        "concurrency",
        "dtype_bytes",
        "head_dim",
        "heads",
        "hidden",
        "index",
        "intermediate",
        "kv_heads",
        "layers",
        "max_replicas",
        "min_replicas",
        "name",
        "output_tokens",
        "prompt_tokens",
        "vocab",
        "weight_bytes",
    )

    def __init__(self) -> None:
        self.index = 0  # position in ctx.models
        self.name = ""  # label
        self.weight_bytes = 0  # bytes of all weights
        self.layers = 0  # transformer layers
        self.hidden = 0  # hidden size
        self.intermediate = 0  # MLP intermediate size
        self.heads = 0  # attention heads
        self.kv_heads = 0  # key-value heads
        self.head_dim = 0  # width of one head
        self.vocab = 0  # size of the vocabulary
        self.dtype_bytes = 2  # bytes of one activation or cached value
        self.concurrency = 0  # requests to serve at once: waiting and running (the paper's lambda)
        self.arrival_rate = 0.0  # requests per s, 0 where the load is given as a batch
        self.prompt_tokens = 0  # mean prompt length of that load
        self.output_tokens = 0  # mean output length of that load
        self.min_replicas = 0  # operator's bound
        self.max_replicas = 0  # operator's bound, 0 if none


class GpuPool:
    """One GPU type and how many there are now, for plan policies."""

    __slots__ = (
        "bandwidth",
        "count",
        "link_bandwidth",
        "memory_bytes",
        "network_bandwidth",
        "pcie_bandwidth",
        "peak_flops",
        "per_node",
        "preemptible",
        "price",
        "quota",
        "type",
    )

    def __init__(self) -> None:
        self.type = ""  # GPU type label
        self.count = 0  # available now
        self.quota = 0  # the most that may be used, 0 if no bound
        self.memory_bytes = 0  # per GPU
        self.peak_flops = 0.0  # dense bf16 FLOP/s per GPU
        self.bandwidth = 0.0  # HBM bytes/s per GPU
        self.pcie_bandwidth = 0.0  # bytes/s, one way
        self.link_bandwidth = 0.0  # GPU to GPU inside a node, bytes/s, one way
        self.network_bandwidth = 0.0  # between nodes, bytes/s
        self.per_node = 0  # GPUs per machine
        self.preemptible = False  # spot capacity
        self.price = 0.0  # money per GPU-hour


class PlanContext:
    """The observation at a monitoring step (the paper's ctx)."""

    __slots__ = ("gpus", "history", "last", "models", "now", "plan", "step", "toolkit")

    def __init__(self) -> None:
        self.step = 0  # monitoring step, from 0
        self.now = 0.0  # s
        self.models: tuple[ModelDemand, ...] = ()  # demand now
        self.gpus: tuple[GpuPool, ...] = ()  # capacity now
        self.plan: tuple[Replicas, ...] | None = None  # the deployed plan, None at cold start
        self.last: PlanContext | None = None  # observation at the last reschedule, None before the first
        self.history: tuple[PlanContext, ...] = ()  # earlier steps, oldest first, at most 32
        self.toolkit: object = None  # cost model, MILP builder, seeded random numbers


VIEWS: Final[dict[str, type]] = {
    "Request": Request,
    "Workflow": Workflow,
    "Replica": Replica,
    "DispatchContext": DispatchContext,
    "ModelDemand": ModelDemand,
    "GpuPool": GpuPool,
    "PlanContext": PlanContext,
}
"""Every view a policy may read, by the name the documentation uses."""

VIEWS_OF: Final[dict[Kind, tuple[str, ...]]] = {
    "dispatch": ("Request", "Workflow", "Replica", "DispatchContext"),
    "plan": ("ModelDemand", "GpuPool", "PlanContext"),
}
"""The views that the functions of a kind are given."""
