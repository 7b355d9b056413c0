"""What a plan costs: serving time, feasibility, moving weights (Eq. 2-11 and Appendix B of arXiv 2604.07144).

The paper is mistaken or silent in places; what is done here instead:
- Eq. 11 loads every deployed model. Its own Table 3 is possible only if models that did not change cost nothing, so both the
  terminating and the loading term range over changed models.
- c_z is given as a range, 5.3 to 11.5. Its tables hold 27.2 s for every move of a 72B and 4.2 s for one of a 7B model; the power law
  through those two gives the range's upper end for a 1.5B model.
- Eq. 7 ignores the KV cache; `check_kv` does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from autopoiesis.policy.api import GpuPool, ModelDemand, Replicas
from autopoiesis.simulator.intervals.roofline import Device, Replica, Shape

DEGREES: Final = (1, 2, 4, 8)
"""Tensor-parallel degrees (T_g)."""
_PCIE_REFERENCE: Final = (8.87, 15.23e9, -0.174)
"""c_z = 8.87 (W / 15.23 GB)^-0.174, recovered from Tables 2 and 3."""
_PCIE_RANGE: Final = (5.3, 11.5)


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What the paper leaves open. Defaults are what its tables agree with best."""

    shard_attention: bool = True
    """Tensor parallelism divides attention and the KV cache, not projections alone."""
    check_kv: bool = False
    """The KV cache must fit; what does not is served in waves."""
    weight_share: float = 0.8
    """theta of Eq. 7: share of a GPU's memory that weights may take."""
    memory_share: float = 0.95
    """Share of a GPU's memory that weights and KV cache may take together, where that is checked."""
    degrees: tuple[int, ...] = DEGREES


class CostModel:
    """The estimator behind the toolkit and the world. Pure: the same arguments give the same seconds."""

    def __init__(self, assumptions: Assumptions = Assumptions()) -> None:
        self.assumptions = assumptions
        self._replicas: dict[tuple[object, ...], Replica] = {}
        self._latencies: dict[tuple[object, ...], float] = {}

    def degrees(self, gpu: GpuPool) -> Sequence[int]:
        """Tensor-parallel degrees that fit on one machine of the type."""
        return tuple(tp for tp in self.assumptions.degrees if tp <= max(1, gpu.per_node))

    def fits(self, model: ModelDemand, gpu: GpuPool, tp: int) -> bool:
        """W_z / t <= theta m_g (Eq. 7); with `check_kv` also room for the KV cache of one request."""
        if model.weight_bytes / tp > self.assumptions.weight_share * gpu.memory_bytes:
            return False
        return not self.assumptions.check_kv or self._most(model, gpu, tp) >= 1

    def latency(self, model: ModelDemand, gpu: GpuPool, tp: int, batch: int) -> float:
        """Lambda(z, g, t, b) at the demand's lengths (Eq. 5); inf where it does not fit."""
        key = (model.name, gpu.type, tp, batch, model.prompt_tokens, model.output_tokens, model.weight_bytes, gpu.bandwidth)  # fmt: skip
        known = self._latencies.get(key)
        if known is None:
            known = self._latencies[key] = self._latency(model, gpu, tp, batch)
        return known

    def prefill_time(self, model: ModelDemand, gpu: GpuPool, tp: int, batch: int) -> float:
        """The first term of Eq. 5 for `batch` prompts; inf where the weights do not fit."""
        if not self.fits(model, gpu, tp):
            return math.inf
        return self.replica(model, gpu, tp).prefill(batch, model.prompt_tokens)

    def decode_time(self, model: ModelDemand, gpu: GpuPool, tp: int, batch: int) -> float:
        """The second term of Eq. 5 for `batch` answers; inf where the weights do not fit."""
        if not self.fits(model, gpu, tp):
            return math.inf
        return self.replica(model, gpu, tp).decode(batch, model.prompt_tokens, model.output_tokens)

    def serve_time(self, model: ModelDemand, gpus: Sequence[GpuPool], plan: Sequence[Replicas]) -> float:
        """L_z: the slowest group of the entries of this model; inf without any, 0 without demand.

        Batches are scaled, up or down, so that together they hold the demand: that is what a plan made for another demand does
        (the paper does not say). Entries without a batch share the demand by `share`, or evenly.
        """
        entries = [entry for entry in plan if entry.model == model.index and entry.count > 0]
        if model.concurrency <= 0:
            return 0.0
        pools = {pool.type: pool for pool in gpus}
        prefill = [entry for entry in entries if entry.role == "prefill"]
        decode = [entry for entry in entries if entry.role == "decode"]
        mixed = [entry for entry in entries if entry.role == "mixed"]
        if not mixed:
            return self._disaggregated(model, pools, prefill, decode)
        return self._slowest(model, pools, mixed)

    def transfer_time(self, model: ModelDemand, gpu: GpuPool) -> float:
        """tau(z, g) = W_z / P_g x c_z, seconds to move a replica's weights over PCIe (Eq. 11)."""
        return model.weight_bytes / gpu.pcie_bandwidth * pcie_factor(model.weight_bytes)

    def reconfigure_time(
        self,
        models: Sequence[ModelDemand],
        gpus: Sequence[GpuPool],
        old: Sequence[Replicas],
        new: Sequence[Replicas],
    ) -> float:
        """T_term + T_load over the models whose (type, TP, count) tuples changed (Eq. 8-11)."""
        pools = {pool.type: pool for pool in gpus}
        before, after = deployment(old), deployment(new)
        changed = {z for z in {*before, *after} if before.get(z) != after.get(z)}
        return sum(
            max(
                (
                    self.transfer_time(models[z], pools[group[0]])
                    for z in changed
                    for group in side.get(z, ())
                    if group[0] in pools
                ),
                default=0.0,
            )
            for side in (before, after)
        )

    def replica(self, model: ModelDemand, gpu: GpuPool, tp: int) -> Replica:
        """Step by step latencies on `tp` GPUs of a type."""
        key = (model.name, model.weight_bytes, gpu.type, gpu.bandwidth, tp)
        known = self._replicas.get(key)
        if known is None:
            device = Device(gpu.peak_flops, gpu.bandwidth, gpu.link_bandwidth, gpu.network_bandwidth, gpu.per_node)  # fmt: skip
            known = Replica(shape_of(model), device, tp, shard_attention=self.assumptions.shard_attention)
            self._replicas[key] = known
        return known

    def _latency(self, model: ModelDemand, gpu: GpuPool, tp: int, batch: int) -> float:
        if batch < 1 or not self.fits(model, gpu, tp):
            return math.inf
        replica = self.replica(model, gpu, tp)
        if not self.assumptions.check_kv:
            return replica.latency(batch, model.prompt_tokens, model.output_tokens)
        most = self._most(model, gpu, tp)
        waves, rest = divmod(batch, most)
        total = waves * replica.latency(most, model.prompt_tokens, model.output_tokens) if waves else 0.0
        return total + (replica.latency(rest, model.prompt_tokens, model.output_tokens) if rest else 0.0)

    def _slowest(self, model: ModelDemand, pools: dict[str, GpuPool], entries: Sequence[Replicas]) -> float:
        slowest = 0.0
        for entry, batch in zip(entries, batches(model.concurrency, entries), strict=True):
            if entry.gpu not in pools:
                return math.inf
            slowest = max(slowest, self.latency(model, pools[entry.gpu], entry.tp, batch) if batch else 0.0)
        return slowest

    def _disaggregated(
        self,
        model: ModelDemand,
        pools: dict[str, GpuPool],
        prefill: Sequence[Replicas],
        decode: Sequence[Replicas],
    ) -> float:
        """Prefill and decode replicas as a pipeline: the slower side, after the first prompt. Ours; the paper has no formula."""
        if not prefill or not decode:
            return math.inf
        sides: list[float] = []
        for entries, took in ((prefill, self.prefill_time), (decode, self.decode_time)):
            slowest = 0.0
            for entry, batch in zip(entries, batches(model.concurrency, entries), strict=True):
                if entry.gpu not in pools:
                    return math.inf
                slowest = max(slowest, took(model, pools[entry.gpu], entry.tp, batch))
            sides.append(slowest)
        first = min(self.prefill_time(model, pools[e.gpu], e.tp, 1) for e in prefill)
        return max(sides) + first

    def _most(self, model: ModelDemand, gpu: GpuPool, tp: int) -> int:
        """Requests whose whole context fits beside the weights."""
        split = tp if self.assumptions.shard_attention else 1
        free = self.assumptions.memory_share * gpu.memory_bytes - model.weight_bytes / tp
        context = max(1, model.prompt_tokens + model.output_tokens)
        return int(free * split / (shape_of(model).kv_bytes_per_token * context))


def shape_of(model: ModelDemand) -> Shape:
    """The view's figures; a head as wide as `hidden / heads` and no output head where the view does not say."""
    head_dim = model.head_dim or model.hidden // max(1, model.heads)
    return Shape(model.layers, model.hidden, model.intermediate, model.heads, model.kv_heads, head_dim, model.vocab, model.dtype_bytes)  # fmt: skip


def pcie_factor(weight_bytes: float) -> float:
    """c_z: how much slower than PCIe a model of so many bytes really loads (larger for small models)."""
    factor, reference, exponent = _PCIE_REFERENCE
    low, high = _PCIE_RANGE
    return min(high, max(low, factor * math.pow(max(weight_bytes, 1.0) / reference, exponent)))


def deployment(plan: Sequence[Replicas]) -> dict[int, tuple[tuple[str, int, str, int], ...]]:
    """Per model its sorted (type, TP, role, count): what must not change for a move to be free."""
    counts: dict[int, dict[tuple[str, int, str], int]] = {}
    for entry in plan:
        if entry.count > 0:
            groups = counts.setdefault(entry.model, {})
            key = (entry.gpu, entry.tp, entry.role)
            groups[key] = groups.get(key, 0) + entry.count
    return {z: tuple((*key, count) for key, count in sorted(groups.items())) for z, groups in counts.items()}


def gpus_used(plan: Sequence[Replicas]) -> dict[str, int]:
    """GPUs per type that a plan takes."""
    used: dict[str, int] = {}
    for entry in plan:
        used[entry.gpu] = used.get(entry.gpu, 0) + entry.tp * entry.count
    return used


def batches(concurrency: int, entries: Sequence[Replicas]) -> list[int]:
    """Requests per replica of each entry, scaled so that together they hold `concurrency`; rounded up."""
    weights: list[float] = [float(entry.batch) for entry in entries]
    if not any(weights):
        weights = [entry.share / entry.count if any(e.share for e in entries) else 1.0 for entry in entries]
    held = sum(weight * entry.count for weight, entry in zip(weights, entries, strict=True))
    if held <= 0:
        return [0] * len(entries)
    return [math.ceil(concurrency * weight / held - 1e-9) for weight in weights]
