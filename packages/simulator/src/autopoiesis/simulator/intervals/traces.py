"""Traces of the interval world: per step the demand on each model and the GPUs there are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import msgspec

from autopoiesis.policy.api import GpuPool, ModelDemand
from autopoiesis.simulator import hardware
from autopoiesis.simulator.intervals.cost import shape_of
from autopoiesis.simulator.models import ModelShape


class Load(msgspec.Struct, frozen=True):
    """Requests that are there together, with their lengths in tokens."""

    concurrency: int
    prompt_tokens: int
    output_tokens: int

    @property
    def tokens(self) -> int:
        """Prompt and output tokens in all."""
        return self.concurrency * (self.prompt_tokens + self.output_tokens)


class Step(msgspec.Struct, frozen=True):
    """One monitoring step: loads by model name (absent: none), GPUs by type."""

    loads: dict[str, Load]
    gpus: dict[str, int]

    @property
    def tokens(self) -> int:
        return sum(load.tokens for load in self.loads.values())


@dataclass(frozen=True, slots=True)
class Pool:
    """A GPU type as a cluster has it. Bytes, FLOP/s, bytes/s."""

    type: str
    memory_bytes: int
    peak_flops: float
    bandwidth: float
    pcie_bandwidth: float
    link_bandwidth: float
    network_bandwidth: float = 50e9
    per_node: int = 8


@dataclass(frozen=True, slots=True)
class PlanTrace:
    """A workload on a cluster, step by step.

    Raises:
        ValueError: no steps, or a step that names an unknown model or GPU type.
    """

    name: str
    models: tuple[ModelShape, ...]
    pools: tuple[Pool, ...]
    steps: tuple[Step, ...]
    rounds: bool = False
    """Agentic: models are workflows, pools instances named "prefill…" or "decode…", loads single calls (see `agentic`)."""

    def __post_init__(self) -> None:
        if not self.steps:
            raise ValueError(f"trace {self.name}: it has no steps")
        models, types = {m.name for m in self.models}, {p.type for p in self.pools}
        for number, step in enumerate(self.steps):
            for kind, named, known in (("model", step.loads, models), ("GPU type", step.gpus, types)):
                unknown = sorted({*named} - known)
                if unknown:
                    raise ValueError(
                        f"trace {self.name}, step {number}: unknown {kind} {', '.join(unknown)}; known are {', '.join(sorted(known))}"
                    )

    @property
    def tokens(self) -> int:
        """Prompt and output tokens of the whole trace."""
        return sum(step.tokens for step in self.steps)

    def demands(self, number: int) -> tuple[ModelDemand, ...]:
        """What a policy sees of the models at a step."""
        loads = self.steps[number].loads
        return tuple(demand(index, shape, loads.get(shape.name)) for index, shape in enumerate(self.models))

    def gpus(self, number: int) -> tuple[GpuPool, ...]:
        """What a policy sees of the cluster at a step."""
        counts = self.steps[number].gpus
        return tuple(pool(spec, counts.get(spec.type, 0)) for spec in self.pools)


def pool_of(gpu: str, **figures: Any) -> Pool:
    """A pool from `hardware.GPUS`; `figures` replace its fields. Raises ValueError for an unknown GPU, TypeError for an unknown field."""
    spec = hardware.gpu(gpu)
    known = Pool(
        type=spec.name,
        memory_bytes=spec.memory_bytes,
        peak_flops=spec.peak_flops,
        bandwidth=spec.bandwidth,
        pcie_bandwidth=spec.pcie_bandwidth,
        link_bandwidth=spec.link_bandwidth,
    )
    return replace(known, **figures)


def demand(index: int, shape: ModelShape, load: Load | None) -> ModelDemand:
    """The view of a model under a load; none means no requests."""
    view = ModelDemand()
    view.index, view.name = index, shape.name
    view.layers, view.hidden, view.intermediate = shape.layers, shape.hidden, shape.intermediate
    view.heads, view.kv_heads, view.head_dim = shape.heads, shape.kv_heads, shape.head_dim
    view.vocab, view.dtype_bytes = shape.vocab, shape.dtype_bytes
    view.weight_bytes = shape_of(view).weight_bytes
    if load is not None:
        view.concurrency = load.concurrency
        view.prompt_tokens, view.output_tokens = load.prompt_tokens, load.output_tokens
    return view


def pool(spec: Pool, count: int) -> GpuPool:
    """The view of `count` GPUs of a pool."""
    view = GpuPool()
    view.type, view.count = spec.type, count
    view.memory_bytes, view.peak_flops, view.bandwidth = spec.memory_bytes, spec.peak_flops, spec.bandwidth
    view.pcie_bandwidth, view.link_bandwidth = spec.pcie_bandwidth, spec.link_bandwidth
    view.network_bandwidth, view.per_node = spec.network_bandwidth, spec.per_node
    return view
