"""GPUs: what the maker says of them, and how much of it a real engine reaches.

Dense bf16 peaks, bandwidths and link speeds are datasheet figures (NVIDIA A100, H100, H200, H20, L4, L40S, RTX PRO 6000
Blackwell Server; RTX 4090 with fp32 accumulation, from the Ada whitepaper). Memory is what the driver reports. Prices are
typical on-demand rates of 2026 and move: override them with `Gpu.priced`.

Efficiencies are starting values for vLLM with CUDA graphs, from measured kernels (NVIDIA aiconfigurator, Apache-2.0: A100,
H100, H200, L40S, RTX PRO 6000) and measured layers (LLMServingSim profiler, MIT: RTX 4090). H20 and L4 take those of the
nearest measured chip. Step overheads are those that make per-request logs of vLLM 0.19 come out (LLMServingSim bench, MIT): 1 ms
on an RTX 4090, which is assumed of the others too, 3 ms on an RTX PRO 6000. Calibration replaces them.
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
    step_overhead_s: float = 0.001
    """Per engine step: scheduling, launches and sampling that the GPU waits for."""
    sequence_overhead_s: float = 4e-6
    """Per sampled sequence and step."""

    def __post_init__(self) -> None:
        for name in ("matmul", "weights", "prefill_attention", "decode_attention"):
            share = getattr(self, name)
            if not 0 < share <= 1:
                raise ValueError(
                    f"efficiency {name} = {share}: must be above 0 and at most 1 (share of the roofline)"
                )
        if self.step_overhead_s < 0 or self.sequence_overhead_s < 0:
            raise ValueError("efficiency overheads must not be negative (seconds)")


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

    def priced(self, price: float) -> Gpu:
        """The same GPU at another price per hour."""
        return replace(self, price=price)


_MIB: Final = 1 << 20
_A100 = Efficiency(0.86, 0.70, 0.48, 0.77)
_H100 = Efficiency(0.80, 0.77, 0.50, 0.85)
_H200 = Efficiency(0.74, 0.71, 0.50, 0.83)
_L40S = Efficiency(0.63, 0.78, 0.42, 0.83)
_ADA = Efficiency(0.84, 0.93, 0.45, 0.85)
_PRO = Efficiency(0.84, 0.78, 0.50, 0.83, step_overhead_s=0.003)

GPUS: Final[dict[str, Gpu]] = {
    gpu.name: gpu
    for gpu in (
        Gpu("A100-40", 312e12, 1.555e12, 40_960 * _MIB, 300e9, 32e9, 1.20, _A100, nvlink=True),
        Gpu("A100-80", 312e12, 2.039e12, 81_920 * _MIB, 300e9, 32e9, 1.80, _A100, nvlink=True),
        Gpu("H100", 989e12, 3.35e12, 81_559 * _MIB, 450e9, 64e9, 2.95, _H100, nvlink=True),
        Gpu("H200", 989e12, 4.8e12, 143_771 * _MIB, 450e9, 64e9, 3.80, _H200, nvlink=True),
        Gpu("H20", 148e12, 4.0e12, 97_871 * _MIB, 450e9, 64e9, 1.90, _H200, nvlink=True),
        Gpu("L4", 121e12, 0.3e12, 23_034 * _MIB, 32e9, 32e9, 0.60, _L40S),
        Gpu("L40S", 362e12, 0.864e12, 46_068 * _MIB, 32e9, 32e9, 1.00, _L40S),
        Gpu("RTX-4090", 165.2e12, 1.008e12, 24_564 * _MIB, 32e9, 32e9, 0.45, _ADA),
        Gpu("RTX-PRO-6000", 468e12, 1.792e12, 97_887 * _MIB, 64e9, 64e9, 1.25, _PRO),
    )
}
"""Known GPU types by name."""

_ALIASES: Final = {
    "A100": "A100-80",
    "A10080": "A100-80",
    "A10040": "A100-40",
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


def _plain(name: str) -> str:
    plain = "".join(c for c in name.upper() if c.isalnum())
    for word in ("NVIDIA", "GEFORCE", "SXM5", "SXM4", "SXM", "80GBHBM3"):
        plain = plain.replace(word, "")
    return plain
