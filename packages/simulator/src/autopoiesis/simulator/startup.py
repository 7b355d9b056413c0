"""How long an engine takes to be ready, from nothing, from warm caches, or from sleep.

Defaults are published measurements of vLLM:
- weights from local NVMe at 3.2 GB/s (ServerlessLLM, safetensors on H100 machines: 16 GB in 4.4 s, 65 GB in 20.6 s);
- a first start also downloads (16 GB in 61 s) and compiles: 52 s for 32 layers on an L40S (Tensorfuse, 2025-09), 85 s for 80
  layers (vLLM issue 19824);
- 15 s of imports and process start, 20 s of cached compilation and CUDA graphs (vLLM PR 11005, issue 20264: 14 to 59 s in all);
- waking from level-1 sleep moves the weights back over PCIe at 22.5 GB/s: 61 GB in 2.9 s, 59 GB per GPU in 5.3 s on A100 (vLLM
  blog, 2025-10).
Whatever the way, the KV and prefix caches start empty.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from autopoiesis.simulator.fleet import ReplicaSpec
from autopoiesis.simulator.models import ModelShape
from autopoiesis.simulator.models import model as shape_of
from autopoiesis.simulator.steptime import StepTime

Start = Literal["cold", "warm", "wake"]
"""Nothing is there; weights and compiled code are on local disk; the engine sleeps with its weights in host memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartupCosts:
    """Seconds and bytes per second."""

    imports_s: float = 15.0
    graphs_s: float = 20.0
    compile_s: float = 30.0
    compile_layer_s: float = 0.69
    """Per transformer layer, besides `compile_s`."""
    download_bandwidth: float = 0.26e9
    disk_bandwidth: float = 3.2e9
    wake_bandwidth: float = 22.5e9
    """Of each GPU."""
    wake_s: float = 0.1
    stop_s: float = 3.0
    """From an engine's last token until its GPUs can be used again."""

    def __post_init__(self) -> None:
        for name in ("download_bandwidth", "disk_bandwidth", "wake_bandwidth"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} = {getattr(self, name)}: must be above 0 (bytes per second)")
        for name in ("imports_s", "graphs_s", "compile_s", "compile_layer_s", "wake_s", "stop_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} = {getattr(self, name)}: must not be negative (seconds)")

    def seconds(self, spec: ReplicaSpec, start: Start) -> float:
        """Until that replica is ready. Raises `ValueError` where its model is unknown."""
        shape = _shape(spec)
        if start == "wake":
            return self.wake_s + shape.weight_bytes / spec.tp / self.wake_bandwidth
        seconds = self.imports_s + shape.weight_bytes / self.disk_bandwidth + self.graphs_s
        if start == "cold":
            seconds += shape.weight_bytes / self.download_bandwidth
            seconds += self.compile_s + self.compile_layer_s * shape.layers
        return seconds


def _shape(spec: ReplicaSpec) -> ModelShape:
    return spec.steps.model if isinstance(spec.steps, StepTime) else shape_of(spec.model)
