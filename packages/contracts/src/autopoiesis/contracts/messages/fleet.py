"""What replicas and nodes say of themselves, and what the planner wants of them."""

from typing import Annotated, Literal

import msgspec

ReplicaState = Literal["loading", "ready", "draining", "stopped", "failed"]
Role = Literal["mixed", "prefill", "decode"]


class StepModel(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Affine model of one engine step, in seconds, that the router's predictors use.

    step = base_s + prefill_token_s * prefill tokens + kv_token_s * KV tokens read + sequence_s * decoding sequences
    """

    base_s: float
    prefill_token_s: float
    kv_token_s: float
    sequence_s: float
    chunk_tokens: int
    """Token budget of one step (max_num_batched_tokens)."""


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True):
    """State of one replica, published every 250 ms on `fleet.heartbeat.<node>.<replica>`."""

    node: str
    replica: str
    incarnation: str
    """Changes when the replica restarts; what a router knew of the last one is void."""
    beat: int
    """Rises by one with each heartbeat of this incarnation."""
    state: ReplicaState
    model: str
    gpu: str
    tp: int = 1
    role: Role = "mixed"
    zone: str = ""
    preemptible: bool = False
    notice_s: float | None = None
    """Seconds until an announced loss, none if none is announced."""
    price: float = 0.0
    """Money per hour of the whole replica."""
    uptime_s: float = 0.0
    progress: float = 1.0
    """Share of loading that is done, 0 to 1."""
    running: int = 0
    waiting: int = 0
    queued_prefill_tokens: int = 0
    kv_used_tokens: int = 0
    kv_capacity_tokens: int = 0
    max_running: int = 0
    step_time_s: float = 0.0
    """Mean of recent engine steps."""
    step_model: StepModel | None = None
    kv_token_bytes: int = 0
    """Of one token in the KV cache; 0 if unknown, as in the next two."""
    link_bandwidth: float = 0.0
    """Bytes per second to another replica of the same node."""
    network_bandwidth: float = 0.0
    """Bytes per second to a replica of another node."""
    adapters: tuple[str, ...] = ()
    prefix_queries: int = 0
    """Prompt tokens looked up in the prefix cache since start."""
    prefix_hits: int = 0
    """Prompt tokens found there."""
    evictions: int = 0
    """Prompt blocks (of `Generate.block_hashes`) that left the prefix cache since start."""
    evicted: tuple[int, ...] = ()
    """The last of them, oldest first; heartbeats repeat them for about a second, because some are lost."""
    received: dict[str, int] = {}
    """Per router: the highest `Generate.nth` received, so that the router knows which sends these figures include."""
    lease_epoch: int = 0
    """Of the desired state this node has reconciled to."""
    via: str = ""
    """The router that reaches this replica directly; empty where it listens on the bus, to every router."""


class NodeInventory(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine has, published on `fleet.node.<node>` at start and every ten seconds."""

    node: str
    zone: str = ""
    gpus: dict[str, int] = {}
    """GPU type to count."""
    memory_bytes: dict[str, int] = {}
    """GPU type to memory of one GPU."""
    measured_flops: dict[str, float] = {}
    """GPU type to achieved dense bf16 FLOP/s of one GPU, where probed."""
    measured_bandwidth: dict[str, float] = {}
    """GPU type to achieved memory bytes/s of one GPU, where probed."""
    plannable: bool = True
    """It follows `fleet.desired.<node>`; a node of attached servers does not."""


class DesiredReplica(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    replica: str
    model: str
    gpu: str
    tp: int = 1
    role: Role = "mixed"
    max_running: int = 0
    """Batch limit, 0 for the engine's default."""


class DesiredState(msgspec.Struct, frozen=True, kw_only=True):
    """All that should run on one node. A worker refuses a lease epoch older than one it has seen."""

    node: str
    lease_epoch: int
    revision: int
    replicas: tuple[DesiredReplica, ...]


class PlannerLease(msgspec.Struct, frozen=True, kw_only=True):
    """Who plans. A planner that sees no newer one for the lease's time takes over with the next epoch."""

    holder: str
    epoch: int
    """Rises at each change of the holder; nodes refuse desired states of an older one."""
    renewal: int = 0
    released: bool = False
    """The holder has stopped: nobody needs to wait."""


class PlanChanged(msgspec.Struct, frozen=True, kw_only=True):
    scope: str
    epoch: int
    """Of the plan policy that asked for it."""
    lease_epoch: int
    revision: int
    at_unix_s: float
    cause: str
    replicas: tuple[DesiredReplica, ...]
    policy: str = ""
    """Hash of the plan policy."""
    started: tuple[str, ...] = ()
    """Names of the replicas that were not wanted before."""
    stopped: tuple[str, ...] = ()
    """Names of those that are not wanted any more."""
    gpus: dict[str, int] = {}
    """GPUs there were, by type."""
    decision_s: float = 0.0
    """Processor seconds that the policy took."""


class ModelBounds(msgspec.Struct, frozen=True, kw_only=True):
    """How many replicas of a model there may be. A plan outside of these bounds is refused."""

    min_replicas: Annotated[int, msgspec.Meta(ge=0)] = 1
    max_replicas: Annotated[int, msgspec.Meta(ge=0)] = 0
    """0 for no bound."""


class PlanRules(msgspec.Struct, frozen=True, kw_only=True):
    """What a planner keeps to whatever its policy. Times are seconds; see the planner's settings."""

    step_s: float
    window_s: float
    cooldown_s: float
    bounds: dict[str, ModelBounds] = {}
    """By model; others keep at least one replica."""
    quota: dict[str, int] = {}


class ModelLoad(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of one model: `concurrency` requests at once, arrivals per second, mean lengths in tokens."""

    concurrency: int = 0
    arrival_rate: float = 0.0
    prompt_tokens: int = 0
    output_tokens: int = 0


class PlannedReplicas(msgspec.Struct, frozen=True, kw_only=True):
    """Replicas of one kind in a plan."""

    model: str
    gpu: str
    tp: int
    count: int
    role: Role = "mixed"


class PlanObserved(msgspec.Struct, frozen=True, kw_only=True):
    """One monitoring step: what the planner saw, asked of its policy or not, and the plan that was in force before it."""

    scope: str
    step: int
    at_unix_s: float
    policy: str
    """Hash of the plan policy in force."""
    epoch: int
    gpus: dict[str, int]
    demand: dict[str, ModelLoad]
    plan: tuple[PlannedReplicas, ...]
    rules: PlanRules
