"""Settings of one worker: sections `worker` and `vllm` of `autopoiesis.yaml`, `AUTOPOIESIS_WORKER_<KEY>` in the environment."""

from __future__ import annotations

import socket
from typing import Annotated, Any, ClassVar, Literal

import msgspec

from autopoiesis.runtime.settings import Secret, Section


class WorkerSettings(Section, frozen=True, kw_only=True):
    """One process per machine (or per group of GPUs of it). Times are seconds."""

    prefix: ClassVar[str] = "worker"

    node: str = msgspec.field(default_factory=socket.gethostname)
    """Name of this machine, unique in the installation."""
    zone: str = ""
    engine: Literal["simulated", "attached", "vllm"] = "simulated"
    model: str = "llama-3.1-8b"
    """Model that simulated and vLLM replicas serve at start; for attached servers only where they do not list theirs."""
    preemptible: bool = False
    """The machine may be taken away."""

    replicas: str = ""
    """Simulated and vLLM replicas at start: `<count>x<GPU>[/tp<n>][:prefill|:decode]`, joined by `+`; with vLLM `CPU` is a GPU too.

    By default vLLM has one on each GPU of the machine, and what is simulated is `2xH100 + 4xL40S`.
    """
    seed: int = 0
    max_running: int = 256
    """Batch limit of each simulated engine."""
    chunk_tokens: int = 2048
    """Token budget of one simulated step."""
    prefix_cache: bool = True
    run_sigma: float = 0.04
    """Noise of simulated step times, standard deviation of their logarithm, anew for each run of steps."""
    drift_sigma: float = 0.06
    """Of a slow drift of each replica on top."""
    drift_time_s: float = 90.0
    load_bandwidth: float = 2e9
    """Bytes of weights per second that a planned replica loads; 0 makes loading instant."""
    load_base_s: float = 12.0
    """Seconds that starting an engine takes beside its weights."""

    attach: tuple[str, ...] = ()
    """URLs of OpenAI-compatible servers, one replica each."""
    attach_key: Secret = Secret()
    """API key for the attached servers."""
    attach_gpu: str = ""
    """GPU type of the attached servers, for policies and reports; empty where unknown."""
    attach_tp: int = 1

    chunk_interval_s: float = 0.05
    """Tokens of one stream gather for so long after its first."""
    drain_s: float = 25.0
    """How long running requests may go on after SIGTERM."""

    def __post_init__(self) -> None:
        if not self.node:
            raise ValueError("worker.node is empty; give this machine a name")
        if self.engine == "attached" and not self.attach:
            raise ValueError(
                "worker.engine = attached needs worker.attach, a list of URLs such as http://127.0.0.1:8000"
            )
        for name in ("drain_s", "chunk_interval_s", "load_bandwidth", "load_base_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"worker.{name} = {getattr(self, name)}: must not be negative")


class VllmSettings(Section, frozen=True, kw_only=True):
    """How `worker.engine: vllm` runs its replicas."""

    prefix: ClassVar[str] = "vllm"

    python: str = ""
    """Python that has vLLM; the worker's own by default."""
    args: str = ""
    """As for `vllm serve`: `--max-model-len 8192 --enable-auto-tool-choice --tool-call-parser hermes`."""
    model_args: dict[str, str] = msgspec.field(default_factory=dict)
    """More of them for single models, by name."""
    checkpoints: dict[str, str] = msgspec.field(default_factory=dict)
    """Model name to the folder or hub name of its weights; a model that is not here is its own hub name."""
    kv_transfer: dict[str, Any] = msgspec.field(default_factory=dict)
    """vLLM's `--kv-transfer-config` of replicas, such as `{kv_connector: NixlConnector}`; roles of a plan set its `kv_role`."""
    env: dict[str, str] = msgspec.field(default_factory=dict)
    """Environment of the engines' processes, on top of the worker's."""
    devices: str = ""
    """What this machine has, such as `4xH100` or `2xCPU`; found out by default."""
    sleepers: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Retired engines that sleep, their weights in host memory, instead of ending: a plan that wants their like again has it at once.

    Beside each there must be room for what it leaves on its GPUs: lower `--gpu-memory-utilization`. Not on the processor.
    """
