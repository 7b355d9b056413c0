"""GPUs: what the maker says of them, and how much of it a real engine reaches.

Dense bf16 peaks, bandwidths and link speeds are datasheet figures of NVIDIA; those of GeForce cards are with fp32 accumulation,
from the Ampere and Ada whitepapers; the RTX PRO 6000 is the Blackwell Server Edition. Memory is what the driver reports. Prices
are typical on-demand rates of 2026 and move: override them with `Gpu.priced`.

Efficiencies are starting values for vLLM with CUDA graphs and calibration replaces them. None was fitted to an end-to-end log:
- A100, H100, H200, L40S, RTX PRO 6000: measured vLLM kernels (NVIDIA aiconfigurator, Apache-2.0), matrix products of Llama-3.1-8B,
  Llama-3.1-70B and Qwen3-32B on 1 to 8 GPUs, causal and decode attention with head dimension 128.
- RTX 4090, and attention on the RTX PRO 6000: measured vLLM 0.19 layers (LLMServingSim profiler, MIT).
- A10, A6000, H20, L4 and RTX 3090 take those of the nearest measured chip.
`benchmarks/fidelity/kernels.py` prints each value beside what the measurements give.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final


@dataclass(frozen=True, slots=True)
class Efficiency:
    """Reached shares of the roofline, each in (0, 1], and fixed costs in seconds."""

    matmul: float
    """Of peak FLOP/s by large matrix products (MFU)."""
    weights: float
    """Of memory bandwidth while reading weights (MBU)."""
    prefill_attention: float
    """Of peak FLOP/s by attention over a prompt chunk."""
    decode_attention: float
    """Of memory bandwidth while reading the KV cache."""
    attention_ramp: float = 300.0
    """Context tokens that each prompt token seems to have besides its own: tiles on the diagonal, starting, writing back."""
    mixed_rows: int = 64
    """Query rows that a decoding sequence fills in an attention call that also has prompt chunks.

    FlashAttention 2 gives each at least one 64-row tile (RTX 4090 and RTX PRO 6000 measured: 63 to 93); 0 where the kernel packs
    the heads of a group into one tile and stays bound by memory (FlashAttention 3 on Hopper).
    """
    layer_overhead_s: float = 30e-6
    """Per layer: starting its kernels inside a CUDA graph (four products, attention, norms)."""
    step_overhead_s: float = 0.0002
    """Per engine step: what the GPU waits for between two steps with asynchronous scheduling."""
    sequence_overhead_s: float = 1.2e-6
    """Per sampled sequence and step (measured sampler: 25 us for one, 310 us for 256)."""

    def __post_init__(self) -> None:
        for name in ("matmul", "weights", "prefill_attention", "decode_attention"):
            share = getattr(self, name)
            if not 0 < share <= 1:
                raise ValueError(
                    f"efficiency {name} = {share}: must be above 0 and at most 1 (share of the roofline)"
                )
        for name in (
            "attention_ramp",
            "mixed_rows",
            "layer_overhead_s",
            "step_overhead_s",
            "sequence_overhead_s",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"efficiency {name} = {getattr(self, name)}: must not be negative")

    def synchronous(self) -> Efficiency:
        """The same engine without asynchronous scheduling: the GPU waits while the host plans a step and handles its tokens.

        2 ms a step and 50 us a sequence, read off closed-loop means of vLLM 0.12 (aiconfigurator's samples, Apache-2.0, Qwen3-32B
        on 2 to 8 H100).
        """
        return replace(
            self,
            step_overhead_s=self.step_overhead_s + 2e-3,
            sequence_overhead_s=self.sequence_overhead_s + 50e-6,
        )


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU type. FLOP/s dense bf16, bytes/s one way, bytes, money per GPU-hour."""

    name: str
    peak_flops: float
    bandwidth: float
    memory_bytes: int
    link_bandwidth: float
    """GPU to GPU inside a node."""
    pcie_bandwidth: float
    price: float
    efficiency: Efficiency
    nvlink: bool = False
    fp8: bool = True
    """Has 8-bit floating-point products; without, 8-bit weights are multiplied as 16-bit ones."""

    def priced(self, price: float) -> Gpu:
        """The same GPU at another price per hour."""
        return replace(self, price=price)

    def measured(self, flops: float, bandwidth: float) -> Gpu:
        """The same GPU reaching what a probe reached in large bf16 products (FLOP/s) and in copying memory (bytes/s)."""
        if flops <= 0 or bandwidth <= 0:
            raise ValueError(f"measured {flops:g} FLOP/s, {bandwidth:g} bytes/s: both must be above 0")
        reached = replace(
            self.efficiency,
            matmul=min(1.0, flops / self.peak_flops),
            weights=min(1.0, bandwidth / self.bandwidth),
        )
        return replace(self, efficiency=reached)


_MIB: Final = 1 << 20
UNKNOWN_ATTENTION: Final = 0.65
"""Of the matrix products' speed by attention over a prompt: about the ratio of the GPUs below."""
UNKNOWN_LINK: Final = 32e9
"""Bytes/s between devices of which nothing is known: one PCIe 4.0 slot."""
_A100 = Efficiency(0.78, 0.73, 0.58, 0.79, 220, layer_overhead_s=60e-6)
_H100 = Efficiency(0.81, 0.87, 0.67, 0.94, 400, mixed_rows=0, layer_overhead_s=41e-6)
_H200 = Efficiency(0.81, 0.84, 0.66, 0.93, 380, mixed_rows=0, layer_overhead_s=42e-6)
_L40S = Efficiency(0.60, 0.76, 0.52, 0.85, 150, layer_overhead_s=15e-6)
_ADA = Efficiency(0.99, 0.93, 0.76, 0.91, 190)
_PRO = Efficiency(0.78, 0.89, 0.45, 0.91, 50)

GPUS: Final[dict[str, Gpu]] = {
    gpu.name: gpu
    for gpu in (
        Gpu("A10", 125e12, 0.6e12, 23_028 * _MIB, 32e9, 32e9, 0.60, _L40S, fp8=False),
        Gpu("A6000", 154.8e12, 0.768e12, 49_140 * _MIB, 32e9, 32e9, 0.55, _L40S, fp8=False),
        Gpu("A100-40", 312e12, 1.555e12, 40_960 * _MIB, 300e9, 32e9, 1.20, _A100, nvlink=True, fp8=False),
        Gpu("A100-80", 312e12, 2.039e12, 81_920 * _MIB, 300e9, 32e9, 1.80, _A100, nvlink=True, fp8=False),
        Gpu("H100", 989e12, 3.35e12, 81_559 * _MIB, 450e9, 64e9, 2.95, _H100, nvlink=True),
        Gpu("H200", 989e12, 4.8e12, 143_771 * _MIB, 450e9, 64e9, 3.80, _H200, nvlink=True),
        Gpu("H20", 148e12, 4.0e12, 97_871 * _MIB, 450e9, 64e9, 1.90, _H200, nvlink=True),
        Gpu("L4", 121e12, 0.3e12, 23_034 * _MIB, 32e9, 32e9, 0.60, _L40S),
        Gpu("L40S", 362e12, 0.864e12, 46_068 * _MIB, 32e9, 32e9, 1.00, _L40S),
        Gpu("RTX-3090", 71e12, 0.936e12, 24_576 * _MIB, 32e9, 32e9, 0.25, _ADA, fp8=False),
        Gpu("RTX-4090", 165.2e12, 1.008e12, 24_564 * _MIB, 32e9, 32e9, 0.45, _ADA),
        Gpu("RTX-PRO-6000", 468e12, 1.597e12, 97_887 * _MIB, 64e9, 64e9, 1.25, _PRO),
    )
}
"""Known GPU types by name."""

_ALIASES: Final = {
    "A100": "A100-80",
    "A10080": "A100-80",
    "A10080GB": "A100-80",
    "A10040GB": "A100-40",
    "A10040": "A100-40",
    "RTXA6000": "A6000",
    "3090": "RTX-3090",
    "4090": "RTX-4090",
    "PRO6000": "RTX-PRO-6000",
}


def gpu(name: str) -> Gpu:
    """The GPU type of that name; case, spaces, `_` and vendor words do not matter. Raises `ValueError` if unknown."""
    plain = _plain(name)
    if plain in _ALIASES:
        return GPUS[_ALIASES[plain]]
    for known, spec in GPUS.items():
        if _plain(known) == plain:
            return spec
    raise ValueError(f"unknown GPU type {name!r}; known are {', '.join(GPUS)}")


def probed(name: str, flops: float, bandwidth: float, memory_bytes: int) -> Gpu:
    """The GPU type of that name as a node measured it (`fleet.node.<node>`); one that nobody knows has just these figures."""
    try:
        known = gpu(name)
    except ValueError:
        unknown = Efficiency(1.0, 1.0, UNKNOWN_ATTENTION, 1.0)
        return Gpu(name, flops, bandwidth, memory_bytes, UNKNOWN_LINK, UNKNOWN_LINK, 0.0, unknown, fp8=False)
    return known.measured(flops, bandwidth)


def _plain(name: str) -> str:
    plain = "".join(c for c in name.upper() if c.isalnum())
    for word in (
        "NVIDIA",
        "GEFORCE",
        "BLACKWELL",
        "SERVEREDITION",
        "SERVER",
        "SXM5",
        "SXM4",
        "SXM",
        "80GBHBM3",
    ):
        plain = plain.replace(word, "")
    return plain
