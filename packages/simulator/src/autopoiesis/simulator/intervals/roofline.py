"""Latency of one replica, operator by operator (Eq. 2-6 and Appendix B of the Autopoiesis paper, arXiv 2604.07144).

Every operator takes max(FLOPs / peak, bytes / bandwidth). For one batch all operators but decode attention cost the same at each
decode step, and decode attention is affine in the context, so the sum over steps has a closed form and nothing is stepped.

The paper names no list of operators; this one is that of LLM-Viewer, which it cites: seven projections, attention as three kernels
(scores, softmax, values; scores pass through memory), norms, residual sums, activation, output head. Its analyser divides the
projections alone by the tensor-parallel degree; `shard_attention` divides attention, and the KV cache, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

NORM_FLOPS, SOFTMAX_FLOPS, ACTIVATION_FLOPS = 7, 5, 2
"""Per element."""


class Shape(NamedTuple):
    """What latency needs to know of a model."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    dtype_bytes: int

    @property
    def kv_bytes_per_token(self) -> int:
        return 2 * self.layers * self.kv_heads * self.head_dim * self.dtype_bytes

    @property
    def weight_bytes(self) -> int:
        """W_z = [L(3HI + 2AHd + 2KHd) + 2HV] eta / 8 (Eq. 2), with one head and one embedding table."""
        heads = 2 * (self.heads + self.kv_heads) * self.head_dim
        layer = self.hidden * (3 * self.intermediate + heads)
        return (self.layers * layer + 2 * self.hidden * self.vocab) * self.dtype_bytes


class Device(NamedTuple):
    """What latency needs to know of a GPU type: FLOP/s, bytes/s, and GPUs that the fast link connects."""

    peak_flops: float
    bandwidth: float
    link_bandwidth: float
    network_bandwidth: float
    per_node: int


@dataclass(frozen=True, slots=True)
class _Kernel:
    """Attention of one layer for one query token over k tokens of context: `flops` k FLOPs, `fixed` + (`cache` + `scores`) k bytes."""

    flops: float
    fixed: float
    cache: float
    """Keys or values; a prompt's queries share one reading of them."""
    scores: float


class Replica:
    """One model on `tp` GPUs of one type. Times in seconds."""

    __slots__ = ("_attention", "_device", "_link", "_projections", "_shape", "_split", "tp")

    def __init__(self, shape: Shape, device: Device, tp: int, *, shard_attention: bool) -> None:
        self._shape, self._device, self.tp = shape, device, tp
        self._split = tp if shard_attention else 1
        self._link = device.link_bandwidth if tp <= max(1, device.per_node) else device.network_bandwidth
        h, q, kv = shape.hidden, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self._projections = ((h, q), (h, kv), (h, kv), (q, h), (h, shape.intermediate), (h, shape.intermediate), (shape.intermediate, h))  # fmt: skip
        score = shape.heads * shape.dtype_bytes
        cache, vector = kv * shape.dtype_bytes, q * shape.dtype_bytes
        self._attention = (
            _Kernel(2 * q, vector, cache, score),
            _Kernel(SOFTMAX_FLOPS * shape.heads, 0.0, 0.0, 2 * score),
            _Kernel(2 * q, vector, cache, score),
        )

    def latency(self, batch: int, prompt: float, output: float) -> float:
        """Lambda(z, g, t, b, s_p, s_d): prefill of `batch` prompts, then `output` decode steps (Eq. 5)."""
        return self.prefill(batch, prompt) + self.decode(batch, prompt, output)

    def prefill(self, batch: int, prompt: float) -> float:
        """Seconds for `batch` prompts of `prompt` tokens each."""
        if prompt <= 0:
            return 0.0
        rows = batch * prompt
        attention = sum(
            self._time(
                rows * kernel.flops * prompt / self._split,
                rows * (kernel.fixed + kernel.scores * prompt + kernel.cache) / self._split,
            )
            for kernel in self._attention
        )
        layers = self._shape.layers * (self._layer(rows) + attention)
        return layers + self._head(batch) + self._all_reduce(rows)

    def decode(self, batch: int, prompt: float, output: float) -> float:
        """Seconds for `output` steps of `batch` sequences that begin at `prompt` tokens of context."""
        if output <= 0:
            return 0.0
        device, split = self._device, self._split
        attention = 0.0
        for kernel in self._attention:
            scale = batch / split
            attention += _sum_of_max(
                kernel.flops * scale / device.peak_flops,
                kernel.fixed * scale / device.bandwidth,
                (kernel.cache + kernel.scores) * scale / device.bandwidth,
                prompt,
                output,
            )
        step = self._shape.layers * self._layer(batch) + self._head(batch) + self._all_reduce(batch)
        return output * step + self._shape.layers * attention

    def _time(self, flops: float, moved: float) -> float:
        return max(flops / self._device.peak_flops, moved / self._device.bandwidth)

    def _layer(self, rows: float) -> float:
        """Everything of one layer but attention and communication."""
        shape, eta = self._shape, self._shape.dtype_bytes
        total = 0.0
        for inputs, outputs in self._projections:
            flops = 2.0 * inputs * outputs * rows
            moved = (inputs * outputs + rows * (inputs + outputs)) * eta
            total += self._time(flops, moved) / self.tp
        wide, narrow = rows * shape.intermediate / self.tp, rows * shape.hidden
        total += 2 * self._time(NORM_FLOPS * narrow, 2 * narrow * eta) + 2 * self._time(narrow, 3 * narrow * eta)  # fmt: skip
        return total + self._time(ACTIVATION_FLOPS * wide, 2 * wide * eta)

    def _head(self, rows: float) -> float:
        shape = self._shape
        moved = (shape.hidden * shape.vocab + rows * (shape.hidden + shape.vocab)) * shape.dtype_bytes
        return self._time(2.0 * shape.hidden * shape.vocab * rows, moved) / self.tp

    def _all_reduce(self, rows: float) -> float:
        """Two ring all-reduces per layer: 2(t-1)/t x 2L x H b s eta / R (Eq. 6)."""
        if self.tp == 1:
            return 0.0
        shape = self._shape
        ring = 2 * (self.tp - 1) / self.tp * 2 * shape.layers
        return ring * shape.hidden * rows * shape.dtype_bytes / self._link


def _sum_of_max(compute: float, fixed: float, moved: float, first: float, count: float) -> float:
    """Sum over k = first, first + 1, … (`count` terms) of max(compute k, fixed + moved k)."""
    last = first + count - 1
    if compute <= moved or compute * last <= fixed + moved * last:
        return count * fixed + moved * _series(first, count)
    crossing = fixed / (compute - moved)
    below = min(count, max(0.0, float(int(crossing - first) + 1))) if crossing >= first else 0.0
    return below * fixed + moved * _series(first, below) + compute * _series(first + below, count - below)


def _series(first: float, count: float) -> float:
    return count * first + count * (count - 1) / 2
