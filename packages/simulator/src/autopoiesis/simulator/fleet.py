"""Fleets: which replicas there are, and how that changes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from autopoiesis.contracts.messages.fleet import Heartbeat, Role, StepModel
from autopoiesis.simulator.engine import EngineConfig
from autopoiesis.simulator.hardware import Gpu, gpu, probed
from autopoiesis.simulator.models import ModelShape
from autopoiesis.simulator.models import model as shape_of
from autopoiesis.simulator.steptime import LINK_EFFICIENCY, AffineSteps, Steps, StepTime, kv_capacity_tokens

if TYPE_CHECKING:  # workers load this module, and need no NumPy for it
    from autopoiesis.simulator.workload.window import GpuProbe, SnapshotInfo

NETWORK_BANDWIDTH: Final = 40e9
"""What one 400 Gb/s InfiniBand port reaches (llm-d's tables: 40 GB/s; RoCE at 200 Gb/s 20, 25 Gb/s Ethernet 2.5)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSpec:
    """One engine: what it is and how fast."""

    name: str
    model: str
    gpu: str
    steps: Steps
    config: EngineConfig
    tp: int = 1
    role: Role = "mixed"
    """A replica that only computes prompts hands them over to one that decodes."""
    node: str = ""
    zone: str = ""
    preemptible: bool = False
    price: float = 0.0
    """Money per hour of the whole replica."""
    kv_token_bytes: int = 0
    link_bandwidth: float = 0.0
    """Bytes per second to replicas of the same node."""
    network_bandwidth: float = NETWORK_BANDWIDTH
    """Bytes per second to replicas of other nodes."""


ChangeKind = Literal["join", "drain", "notice", "fail", "sleep", "wake"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What happens to one replica at `at` seconds. `moves` makes schedules of them, `startup` says what they cost.

    A replica joins (loads for `takes_s`, then is ready), drains (ends what it has, takes no more, leaves), is told of its loss
    in `takes_s`, or fails (loses all; routers know after `takes_s`). One that sleeps drains first and gives its GPUs and caches
    up; it wakes in `takes_s`.
    """

    at: float
    kind: ChangeKind
    replica: str
    spec: ReplicaSpec | None = None
    """Of a replica that joins."""
    takes_s: float = 0.0
    after: str = ""
    """A replica that joins waits until this one has left, and `gap_s` more: it needs its GPUs."""
    gap_s: float = 0.0

    def __post_init__(self) -> None:
        if (self.kind == "join") != (self.spec is not None):
            raise ValueError(f"change of {self.replica} at {self.at:g} s: exactly a join has a spec")
        if self.after and self.kind != "join":
            raise ValueError(
                f"change of {self.replica} at {self.at:g} s: only a join waits for another replica"
            )
        if not (0 <= self.takes_s < math.inf and 0 <= self.gap_s < math.inf):
            raise ValueError(
                f"change of {self.replica} at {self.at:g} s: takes_s and gap_s must be finite, not negative"
            )


@dataclass(frozen=True, slots=True)
class Fleet:
    """Replicas that are there at the start, and changes in order of time."""

    replicas: tuple[ReplicaSpec, ...]
    changes: tuple[Change, ...] = ()

    def __post_init__(self) -> None:
        names = [spec.name for spec in self.replicas] + [c.replica for c in self.changes if c.kind == "join"]
        if not names:
            raise ValueError("a fleet needs at least one replica")
        if len(set(names)) < len(names):
            raise ValueError(
                f"replica names must differ: {', '.join(sorted(n for n in set(names) if names.count(n) > 1))}"
            )
        for change in self.changes:
            for name in (change.replica, change.after):
                if name and name not in names:
                    raise ValueError(
                        f"change of {change.replica} at {change.at:g} s: no such replica as {name}"
                    )

    @classmethod
    def parse(
        cls,
        text: str,
        model: str | ModelShape = "Llama-3.1-8B",
        *,
        max_running: int = 256,
        max_batched_tokens: int = 2048,
        block_tokens: int = 16,
        prefix_block_tokens: int = 0,
    ) -> Fleet:
        """`2xH100 + 4xL40S`, with `/tpN` behind a GPU for tensor parallelism and a role: `1xH100/tp2:prefill + 4xL4:decode`.

        Raises `ValueError`.
        """
        shape = model if isinstance(model, ModelShape) else shape_of(model)
        replicas: list[ReplicaSpec] = []
        for part in text.split("+"):
            found = re.fullmatch(
                r"\s*(?:(\d+)\s*[x×*]\s*)?([A-Za-z][\w .-]*?|4090)\s*(?:/\s*tp\s*(\d+))?\s*(?::\s*(mixed|prefill|decode))?\s*",
                part,
            )
            if found is None:
                raise ValueError(
                    f"fleet {text!r}: {part.strip()!r} is not like 2xH100, 1xH100/tp2 or 1xL4:decode"
                )
            role: Any = found[4] or "mixed"
            one = replica_of(
                gpu(found[2]),
                shape,
                int(found[3] or 1),
                role,
                max_running=max_running,
                max_batched_tokens=max_batched_tokens,
                block_tokens=block_tokens,
                prefix_block_tokens=prefix_block_tokens,
            )
            for _ in range(int(found[1] or 1)):
                number = len(replicas)
                replicas.append(replace(one, name=f"{one.gpu.lower()}-{number}", node=f"node-{number}"))
        return cls(tuple(replicas))

    @classmethod
    def of_snapshot(cls, info: SnapshotInfo, *, prefix_block_tokens: int = 0) -> Fleet:
        """The fleet of a window: who was ready at its start, who came and went. Raises `ValueError` if nobody ever was ready.

        Step times are those of `steps_of`, scaled by what was measured.
        """
        standing: dict[str, tuple[str, str]] = {}
        replicas, changes = [], []

        def spec(beat: Heartbeat, name: str) -> ReplicaSpec:
            return replace(spec_of(beat, info.step_scale, info.probed, prefix_block_tokens), name=name)

        for beat in info.fleet:
            if beat.state == "ready":
                standing[beat.replica] = (beat.incarnation, beat.replica)
                replicas.append(spec(beat, beat.replica))
        for change in info.changes:
            beat, at = change.heartbeat, change.at_s
            incarnation, name = standing.get(beat.replica, ("", ""))
            if name and (beat.state in {"stopped", "failed", "loading"} or beat.incarnation != incarnation):
                changes.append(Change(at=at, kind="fail", replica=name))
                del standing[beat.replica]
                name = ""
            if name and beat.state == "draining":
                changes.append(Change(at=at, kind="drain", replica=name))
            elif not name and beat.state == "ready":
                name = f"{beat.replica}~{len(changes)}"
                standing[beat.replica] = (beat.incarnation, name)
                changes.append(Change(at=at, kind="join", replica=name, spec=spec(beat, name)))
        return cls(tuple(replicas), tuple(changes))

    def with_prefix_blocks(self, tokens: int) -> Fleet:
        """The same replicas with a prefix cache whose hashes stand for `tokens` tokens each; 0 turns it off.

        Pages grow where a hash is not a whole number of them.
        """
        return replace(
            self,
            replicas=tuple(with_cache(spec, tokens) for spec in self.replicas),
            changes=tuple(replace(c, spec=with_cache(c.spec, tokens)) if c.spec else c for c in self.changes),
        )

    def with_changes(self, changes: Sequence[Change]) -> Fleet:
        return replace(self, changes=tuple(sorted((*self.changes, *changes), key=lambda change: change.at)))


def replica_of(
    chip: Gpu,
    shape: ModelShape,
    tp: int = 1,
    role: Role = "mixed",
    *,
    name: str = "",
    max_running: int = 256,
    max_batched_tokens: int = 2048,
    block_tokens: int = 16,
    prefix_block_tokens: int = 0,
) -> ReplicaSpec:
    """One replica of a model on `tp` GPUs of a type. Raises `ValueError` where it does not fit."""
    config = EngineConfig(
        kv_capacity_tokens=kv_capacity_tokens(
            chip,
            shape,
            tp,
            max_batched_tokens=max_batched_tokens,
            max_running=max_running,
            block_tokens=block_tokens,
        ),
        max_batched_tokens=max_batched_tokens,
        max_running=max_running,
        block_tokens=block_tokens,
        prefix_block_tokens=prefix_block_tokens,
    )
    return ReplicaSpec(
        name=name,
        model=shape.name,
        gpu=chip.name,
        tp=tp,
        role=role,
        steps=StepTime(chip, shape, tp),
        config=config,
        node=name,
        price=chip.price * tp,
        kv_token_bytes=shape.kv_bytes_per_token,
        link_bandwidth=chip.link_bandwidth * LINK_EFFICIENCY * tp,
    )


LEAST_BASE_S = 1e-6
"""Of a step, where what was learned of a server puts all on its sequences."""
UNTOLD_KV_TOKENS = 1 << 22
"""KV capacity of servers that do not tell theirs: it binds nothing, as for the router."""


def spec_of(
    beat: Heartbeat,
    step_scale: Mapping[str, float],
    measured: Mapping[str, GpuProbe],
    prefix_block_tokens: int = 0,
) -> ReplicaSpec:
    """The replica behind a heartbeat; `step_scale` and `measured` go by GPU type. Raises what `steps_of` raises."""
    chunk = beat.step_model.chunk_tokens if beat.step_model else 2048
    max_running = beat.max_running or 256
    config = EngineConfig(
        kv_capacity_tokens=beat.kv_capacity_tokens or UNTOLD_KV_TOKENS,
        max_batched_tokens=max(chunk, max_running),
        max_running=max_running,
    )
    spec = ReplicaSpec(
        name=beat.replica,
        model=beat.model,
        gpu=beat.gpu,
        tp=beat.tp,
        role=beat.role,
        steps=steps_of(
            beat.model,
            beat.gpu,
            beat.tp,
            carried=beat.step_model,
            probe=measured.get(beat.gpu),
            scale=step_scale.get(beat.gpu, 1.0),
        ),
        config=config,
        node=beat.node,
        zone=beat.zone,
        preemptible=beat.preemptible,
        price=beat.price,
        kv_token_bytes=beat.kv_token_bytes,
        link_bandwidth=beat.link_bandwidth,
        network_bandwidth=beat.network_bandwidth or NETWORK_BANDWIDTH,
    )
    return with_cache(spec, prefix_block_tokens)


def steps_of(
    served: str,
    kind: str,
    tp: int = 1,
    *,
    carried: StepModel | None = None,
    probe: GpuProbe | None = None,
    scale: float = 1.0,
) -> Steps:
    """Step times of a live replica of model `served` on `tp` GPUs of type `kind`.

    The roofline where model and GPU are known, the GPU by name or by what its node measured; else the coefficients that the
    replica's heartbeats carry. Raises `ValueError` where its speed can be had neither way.
    """
    try:
        chip = gpu(kind) if probe is None else probed(kind, probe.flops, probe.bandwidth, probe.memory_bytes)
        return StepTime(chip, shape_of(served), tp, scale=scale)
    except ValueError:
        if carried is None:
            raise
        return AffineSteps(
            max(LEAST_BASE_S, carried.base_s * scale),
            carried.prefill_token_s * scale,
            carried.kv_token_s * scale,
            carried.sequence_s * scale,
        )


def with_cache(spec: ReplicaSpec, tokens: int) -> ReplicaSpec:
    """The same replica with a prefix cache whose hashes stand for `tokens` tokens each; 0: without."""
    pages = spec.config.block_tokens
    if tokens % pages:
        pages = next(size for size in range(min(tokens, 64), 0, -1) if tokens % size == 0)
    return replace(spec, config=replace(spec.config, block_tokens=pages, prefix_block_tokens=tokens))
