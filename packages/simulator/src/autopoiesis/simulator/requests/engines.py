"""An engine of the world: a replica, where it is in its life, and what it tells routers of itself."""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec

from autopoiesis.contracts.messages.fleet import Heartbeat, ReplicaState, StepModel
from autopoiesis.simulator.engine import Model
from autopoiesis.simulator.fleet import Change, ReplicaSpec
from autopoiesis.simulator.lookahead import engine_of
from autopoiesis.simulator.requests.outcome import ReplicaTotals
from autopoiesis.simulator.steptime import FP8_PEAK, StepTime


class Engine:
    """Times are seconds of the run, NaN for what has not happened."""

    __slots__ = (
        "asleep",
        "beating",
        "beats",
        "due",
        "evictions",
        "held_from",
        "held_s",
        "history",
        "inbound",
        "joined",
        "left",
        "link_free",
        "loading_s",
        "loss_at",
        "prefills",
        "ready_at",
        "received",
        "replica",
        "silent",
        "spec",
        "state",
        "successors",
        "unchanging",
    )

    def __init__(
        self,
        spec: ReplicaSpec,
        now: float,
        perturb: Callable[[], float] | None,
        model: Callable[..., Model] = engine_of,
    ) -> None:
        self.spec = spec
        self.replica = model(spec.steps, spec.config, perturb=perturb)
        self.prefills = spec.role == "prefill"
        self.inbound = 0
        """Prompts on their way here from replicas that computed them."""
        self.link_free = now
        """When its link has moved all that left it."""
        self.state: ReplicaState = "ready"
        self.history: list[tuple[float, ReplicaState]] = [(now, "ready")]
        self.joined = now
        """When it was last ready."""
        self.ready_at = now
        self.left = math.nan
        """When it gave its GPUs up for good."""
        self.loss_at = math.inf
        """Announced."""
        self.silent = False
        """Failed, and routers do not know yet."""
        self.asleep = False
        """Its next stop is sleep."""
        self.successors: list[Change] = []
        """Joins that wait for its GPUs."""
        self.held_from = now
        self.held_s = 0.0
        self.loading_s = 0.0
        self.due = math.inf
        self.beats = 0
        self.beating = False
        self.evictions = 0
        """Of the last heartbeat."""
        self.received: dict[str, int] = {}
        self.unchanging = _described(spec)
        """A heartbeat with what never changes."""

    def load(self, now: float, takes_s: float) -> None:
        """Take the GPUs; ready in `takes_s`."""
        self.held_from = now
        self.ready_at = self.joined = now + takes_s
        self.loading_s += takes_s
        self.become("loading" if takes_s else "ready", now)

    def become(self, state: ReplicaState, now: float) -> None:
        self.state = state
        if self.history[-1][0] == now:
            self.history.pop()
        self.history.append((now, state))

    def release(self, now: float) -> None:
        """Give the GPUs up."""
        if self.held_from == self.held_from:
            self.held_s += now - self.held_from
            self.loading_s -= max(0.0, self.ready_at - now)
        self.held_from = math.nan

    def heartbeat(self, now: float) -> Heartbeat:
        replica = self.replica
        stats = replica.stats(now)
        replica.reuse(now)
        before, self.evictions = self.evictions, replica.evictions
        self.beats += 1
        return msgspec.structs.replace(
            self.unchanging,
            beat=self.beats,
            state=self.state,
            notice_s=None if self.loss_at == math.inf else max(0.0, self.loss_at - now),
            uptime_s=max(0.0, now - self.joined),
            running=stats.running,
            waiting=stats.waiting,
            queued_prefill_tokens=stats.queued_prefill_tokens,
            kv_used_tokens=stats.kv_used_tokens,
            kv_capacity_tokens=stats.kv_capacity_tokens,
            step_time_s=stats.step_time,
            prefix_queries=stats.prefix_queries,
            prefix_hits=stats.prefix_hits,
            evictions=self.evictions,
            evicted=replica.evicted(before),
            received=self.received.copy(),
        )

    def totals(self, now: float) -> ReplicaTotals:
        """Counts at the end of the run."""
        spec, replica = self.spec, self.replica
        self.release(now)
        return ReplicaTotals(
            name=spec.name,
            gpu=spec.gpu,
            tp=spec.tp,
            price=spec.price,
            present_s=self.held_s,
            loading_s=self.loading_s,
            busy_s=replica.busy_s,
            steps=replica.steps,
            layer_tokens=replica.layer_tokens,
            kv_tokens_read=replica.kv_tokens_read,
            kv_capacity_tokens=spec.config.kv_blocks * spec.config.block_tokens,
            kv_peak_tokens=replica.kv_peak_tokens,
            tokens_out=replica.tokens_out,
            preemptions=replica.preemptions,
            prefix_queries=replica.prefix_queries,
            prefix_hits=replica.prefix_hits,
            bound_s=_bound(spec, replica),
            gaps=dict(replica.gaps),
            history=tuple(self.history),
        )


def _described(spec: ReplicaSpec) -> Heartbeat:
    base, prefill, kv, sequence = spec.steps.step_coefficients(spec.config.max_batched_tokens)
    return Heartbeat(
        node=spec.node,
        replica=spec.name,
        incarnation="0",
        beat=0,
        state="loading",
        model=spec.model,
        gpu=spec.gpu,
        tp=spec.tp,
        role=spec.role,
        zone=spec.zone,
        preemptible=spec.preemptible,
        price=spec.price,
        max_running=spec.config.max_running,
        step_model=StepModel(
            base_s=base,
            prefill_token_s=prefill,
            kv_token_s=kv,
            sequence_s=sequence,
            chunk_tokens=spec.config.max_batched_tokens,
        ),
        kv_token_bytes=spec.kv_token_bytes,
        link_bandwidth=spec.link_bandwidth,
        network_bandwidth=spec.network_bandwidth,
    )


def _bound(spec: ReplicaSpec, replica: Model) -> float:
    """Ideal hardware's time for all the replica did: FLOPs of the layers, or weights once per step and KV reads."""
    steps = spec.steps
    if not isinstance(steps, StepTime):
        return 0.0
    shape, chip = steps.model, steps.gpu
    peak = chip.peak_flops * (FP8_PEAK if shape.fp8 and chip.fp8 else 1.0)
    compute = 2.0 * shape.active_params * replica.layer_tokens / peak
    compute += shape.attention_flops_per_pair * replica.kv_tokens_read / chip.peak_flops
    moved = shape.layer_params_read(1) * shape.layer_param_bytes * replica.steps
    moved += replica.kv_tokens_read * shape.kv_bytes_per_token
    return max(compute, moved / chip.bandwidth) / steps.tp
