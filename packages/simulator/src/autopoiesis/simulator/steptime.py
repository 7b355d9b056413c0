"""How long one engine step takes: a roofline with measured efficiencies.

A step feeds `tokens` tokens through the layers (prompt chunks plus one per decoding sequence) and samples some sequences:

    step = overheads + linear(tokens) + norms(tokens) + all-reduce(tokens) + head(sampled) + chunk attention
           + KV tokens read * (per_kv_token, or per_kv_token_mixed in a step that has chunks)

Each part is at least its own roofline max(FLOPs/peak, bytes/bandwidth), so the sum is at least that of the whole step. The
linear part joins its two regimes by a p-norm, as measured kernels do around the knee. For a fixed batch everything but the last
two terms is constant and both are affine in the step's number: a run of steps has a closed form.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final, Protocol

from autopoiesis.simulator.hardware import Efficiency, Gpu
from autopoiesis.simulator.models import ModelShape

KNEE: Final = 2.5
"""Exponent of the p-norm that joins compute- and memory-bound linear layers (median error on measured kernels 6 to 8 %)."""
KNEE_EXPERTS: Final = 1.3
"""The same for mixtures of experts, whose products wait for one expert's weights after another (Qwen3-30B-A3B measured)."""

NORM_HIDDEN: Final = 6.0
NORM_INTERMEDIATE: Final = 2.5
"""Activations moved per token and layer outside products and attention, in units of `hidden` and of `intermediate`: norms, rotary
embedding and the gate, less what caches keep (RTX 4090 and RTX PRO 6000 layers measured within 10 %)."""

FP8_PEAK: Final = 2.0
"""Peak of 8-bit products over that of 16-bit ones, on chips that have them."""
FP8_SHARE: Final = 0.75
"""Efficiency of 8-bit products over that of 16-bit ones (measured: H100 and H200 0.7 to 0.8, L40S 0.7, RTX PRO 6000 0.85)."""
FP8_LAYER_S: Final = 13e-6
"""Quantizing the activations of four products, per layer (measured on H100 and H200)."""

ALLREDUCE_LATENCY_S: Final = 5e-6
LINK_EFFICIENCY: Final = 0.6
"""Reached share of the link by large all-reduces (A100, H100, L40S, RTX PRO 6000 measured in aiconfigurator)."""
PCIE_CONTENTION: Final = 5.0
"""All-reduces over more than two GPUs on PCIe lose this factor (L40S measured)."""


class Steps(Protocol):
    """What an engine model needs of a step-time model; `StepTime` explains the terms."""

    per_kv_token: float
    per_kv_token_mixed: float

    def fixed(self, tokens: int, sampled: int) -> float: ...
    def chunk_attention(self, chunk: int, prefix: int) -> float: ...
    def per_prefix_token(self, chunk: int) -> float: ...
    def step(
        self, chunks: Iterable[tuple[int, int]], decodes: int, kv_tokens: int, sampled: int
    ) -> float: ...
    def lower_bound(
        self, chunks: Iterable[tuple[int, int]], decodes: int, kv_tokens: int, sampled: int
    ) -> float: ...
    def step_coefficients(self, chunk_tokens: int = 2048) -> tuple[float, float, float, float]: ...


class StepTime:
    """Step times of `model` on `tp` GPUs of one type, in seconds."""

    __slots__ = (
        "_heads",
        "_layers",
        "_ramp",
        "efficiency",
        "gpu",
        "model",
        "per_kv_token",
        "per_kv_token_mixed",
        "per_pair",
        "scale",
        "tp",
    )

    def __init__(
        self,
        gpu: Gpu,
        model: ModelShape,
        tp: int = 1,
        efficiency: Efficiency | None = None,
        scale: float = 1.0,
    ) -> None:
        """`scale` multiplies every step (measured over modelled). Raises `ValueError` where `tp` does not divide the model's heads."""
        if tp < 1 or model.heads % tp:
            raise ValueError(f"tp = {tp}: must divide the {model.heads} attention heads of {model.name}")
        self.gpu = gpu
        self.model = model
        self.tp = tp
        self.efficiency = efficiency or gpu.efficiency
        self.scale = scale
        self.per_kv_token = (
            scale * model.kv_bytes_per_token / (tp * gpu.bandwidth * self.efficiency.decode_attention)
        )
        """Seconds to read one token's keys and values."""
        self.per_pair = (
            scale * model.attention_flops_per_pair / (tp * gpu.peak_flops * self.efficiency.prefill_attention)
        )
        """Seconds of chunk attention for one query token against one context token."""
        self.per_kv_token_mixed = max(self.per_kv_token, self.efficiency.mixed_rows * self.per_pair)
        """The same in a step that has prompt chunks too."""
        self._ramp = self.efficiency.attention_ramp
        self._layers: dict[int, float] = {}
        self._heads: dict[int, float] = {}

    def fixed(self, tokens: int, sampled: int) -> float:
        """The part that depends on neither KV nor chunk attention: `tokens` through the layers, `sampled` through the head."""
        layers, heads = self._layers, self._heads
        try:
            return layers[tokens] + heads[sampled]
        except KeyError:
            layers[tokens] = self.scale * self._layer_time(tokens)
            heads[sampled] = self.scale * self._head_time(sampled)
            return layers[tokens] + heads[sampled]

    def chunk_attention(self, chunk: int, prefix: int) -> float:
        """Attention of `chunk` prompt tokens after `prefix` tokens that are in the KV cache already."""
        own = chunk * (0.5 * (chunk + 1) + self._ramp) * self.per_pair
        return prefix * self.per_prefix_token(chunk) + own if prefix else own

    def per_prefix_token(self, chunk: int) -> float:
        """Seconds that each token of prefix adds to a chunk: computing against it or reading it, whichever is longer."""
        computed = chunk * self.per_pair
        return computed if computed > self.per_kv_token else self.per_kv_token

    def step(self, chunks: Iterable[tuple[int, int]], decodes: int, kv_tokens: int, sampled: int) -> float:
        """One step: `chunks` of (tokens, prefix tokens), `decodes` sequences that read `kv_tokens` in all, `sampled` outputs."""
        tokens = decodes
        attention = 0.0
        per_kv_token = self.per_kv_token
        for chunk, prefix in chunks:
            tokens += chunk
            attention += self.chunk_attention(chunk, prefix)
            per_kv_token = self.per_kv_token_mixed
        return self.fixed(tokens, sampled) + attention + kv_tokens * per_kv_token

    def lower_bound(
        self, chunks: Iterable[tuple[int, int]], decodes: int, kv_tokens: int, sampled: int
    ) -> float:
        """The same step on ideal hardware: max(FLOPs / peak, bytes / bandwidth), nothing else."""
        tokens, pairs, read = decodes, kv_tokens, kv_tokens
        for chunk, prefix in chunks:
            tokens += chunk
            pairs += chunk * prefix + chunk * (chunk + 1) // 2
            read += prefix
        shape = self.model
        wide = 2.0 * shape.head_params * sampled + shape.attention_flops_per_pair * pairs
        compute = 2.0 * shape.active_params * tokens / self._peak(shape.fp8) + wide / self._peak(fp8=False)
        head = shape.head_params * shape.dtype_bytes if sampled else 0
        moved = shape.layer_params_read(tokens) * shape.layer_param_bytes + head
        return max(compute, (moved + read * shape.kv_bytes_per_token) / self.gpu.bandwidth) / self.tp

    def step_coefficients(self, chunk_tokens: int = 2048) -> tuple[float, float, float, float]:
        """Affine summary (base, per prefill token, per KV token, per decoding sequence), seconds, for routers' predictors.

        The per-token price is the slope of a full chunk of `chunk_tokens` against a decode-only step.
        """
        base = self.fixed(1, 1)
        per_sequence = max(0.0, (self.fixed(64, 64) - base) / 63)
        full = self.fixed(chunk_tokens, 1) + self.chunk_attention(chunk_tokens, 0)
        return base, max(0.0, (full - base) / chunk_tokens), self.per_kv_token, per_sequence

    def _layer_time(self, tokens: int) -> float:
        eff, shape = self.efficiency, self.model
        linear = self._product(
            shape.active_params * tokens,
            shape.layer_params_read(tokens),
            fp8=shape.fp8,
            knee=KNEE_EXPERTS if shape.experts else KNEE,
        )
        start = eff.layer_overhead_s + (FP8_LAYER_S if shape.fp8 else 0.0)
        overhead = eff.step_overhead_s + shape.layers * start
        return linear + self._norms(tokens) + self._all_reduce(tokens) + overhead

    def _head_time(self, sampled: int) -> float:
        if not sampled:
            return 0.0
        head = self.model.head_params
        return self._product(head * sampled, head) + sampled * self.efficiency.sequence_overhead_s

    def _peak(self, fp8: bool) -> float:
        return self.gpu.peak_flops * (FP8_PEAK if fp8 and self.gpu.fp8 else 1.0)

    def _product(
        self, multiplications: float, weights: float, *, fp8: bool = False, knee: float = KNEE
    ) -> float:
        """Matrix products that read `weights` parameters."""
        eff, gpu = self.efficiency, self.gpu
        reached = eff.matmul * (FP8_SHARE if fp8 and gpu.fp8 else 1.0)
        compute = 2.0 * multiplications / (self.tp * self._peak(fp8) * reached)
        each = 1 if fp8 else self.model.dtype_bytes
        memory = weights * each / (self.tp * gpu.bandwidth * eff.weights)
        return math.pow(math.pow(compute, knee) + math.pow(memory, knee), 1 / knee)

    def _norms(self, tokens: int) -> float:
        shape = self.model
        wide = NORM_INTERMEDIATE * shape.intermediate * max(1, shape.experts_per_token) / self.tp
        moved = tokens * shape.layers * (NORM_HIDDEN * shape.hidden + wide) * shape.dtype_bytes
        return moved / self.gpu.bandwidth

    def _all_reduce(self, tokens: int) -> float:
        if self.tp == 1:
            return 0.0
        link = self.gpu.link_bandwidth * LINK_EFFICIENCY
        if self.tp > 2 and not self.gpu.nvlink:
            link /= PCIE_CONTENTION
        moved = 2 * (self.tp - 1) / self.tp * tokens * self.model.hidden * self.model.dtype_bytes
        return 2 * self.model.layers * (ALLREDUCE_LATENCY_S + moved / link)


class AffineSteps:
    """Step times from the coefficients of a heartbeat's step model, for engines whose GPU or model we do not know."""

    __slots__ = ("base", "per_kv_token", "per_kv_token_mixed", "per_prefill_token", "per_sequence")

    def __init__(
        self, base: float, per_prefill_token: float, per_kv_token: float, per_sequence: float
    ) -> None:
        """Seconds, none negative, `base` above 0."""
        if base <= 0 or min(per_prefill_token, per_kv_token, per_sequence) < 0:
            raise ValueError("step coefficients must not be negative, and the base must be above 0 (seconds)")
        self.base = base
        self.per_prefill_token = per_prefill_token
        self.per_kv_token = self.per_kv_token_mixed = per_kv_token
        self.per_sequence = per_sequence

    def fixed(self, tokens: int, sampled: int) -> float:
        return self.base + self.per_prefill_token * max(0, tokens - sampled) + self.per_sequence * sampled

    def chunk_attention(self, chunk: int, prefix: int) -> float:
        return 0.0

    def per_prefix_token(self, chunk: int) -> float:
        return 0.0

    def step(self, chunks: Iterable[tuple[int, int]], decodes: int, kv_tokens: int, sampled: int) -> float:
        tokens = decodes + sum(chunk for chunk, _ in chunks)
        return self.fixed(tokens, sampled) + kv_tokens * self.per_kv_token

    def lower_bound(
        self, chunks: Iterable[tuple[int, int]], decodes: int, kv_tokens: int, sampled: int
    ) -> float:
        """Nothing is known of the hardware."""
        return 0.0

    def step_coefficients(self, chunk_tokens: int = 2048) -> tuple[float, float, float, float]:
        return self.base, self.per_prefill_token, self.per_kv_token, self.per_sequence


def kv_capacity_tokens(
    gpu: Gpu,
    model: ModelShape,
    tp: int = 1,
    *,
    max_batched_tokens: int = 2048,
    max_running: int = 256,
    memory_share: float = 0.9,
    block_tokens: int = 16,
) -> int:
    """Tokens that fit in the KV cache beside weights, activations and graphs, whole blocks.

    Anchored at vLLM 0.19, Llama-3.1-8B on an RTX 4090: 41,408 tokens. Raises `ValueError` where the model does not fit.
    """
    usable = gpu.memory_bytes * 0.98 * memory_share
    widest = model.intermediate * max(1, model.experts_per_token)
    activations = max_batched_tokens * (2 * widest // tp + 4 * model.hidden) * model.dtype_bytes
    logits = max_running * model.vocab * 8
    free = usable - model.weight_bytes / tp - activations - logits - 0.8e9
    blocks = int(free / (block_tokens * model.kv_bytes_per_token / tp))
    if blocks < 1:
        raise ValueError(
            f"{model.name} does not fit on {tp} x {gpu.name}: {model.weight_bytes / tp / 1e9:.1f} GB of weights per GPU and "
            f"{usable / 1e9:.1f} GB usable; take a larger tp or GPU"
        )
    return blocks * block_tokens
