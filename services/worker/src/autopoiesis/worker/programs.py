"""How a replica becomes the process of a vLLM."""

from __future__ import annotations

import json
import os
import shlex
import sys
from typing import Final

from autopoiesis.contracts.messages.fleet import Role
from autopoiesis.worker.devices import DevicePool
from autopoiesis.worker.engines.frames import Configure
from autopoiesis.worker.engines.process import ProcessEngine, Program
from autopoiesis.worker.layout import ReplicaSpec
from autopoiesis.worker.settings import VllmSettings

_DEFAULT_ENV: Final = {
    "VLLM_LOGGING_LEVEL": "WARNING",  # below it vLLM writes a line for every step
    "VLLM_NO_USAGE_STATS": "1",
}

_KV_ROLES: Final[dict[Role, str]] = {"prefill": "kv_producer", "decode": "kv_consumer", "mixed": "kv_both"}


class VllmFactory:
    """A `node.EngineFactory`: takes devices for each engine, and gives them back when its memory is free."""

    def __init__(self, settings: VllmSettings, pool: DevicePool, *, chunk_interval_s: float) -> None:
        self._settings = settings
        self._pool = pool
        self._chunk_interval_s = chunk_interval_s

    def __call__(self, spec: ReplicaSpec, planned: bool) -> ProcessEngine:
        """Raises `ValueError` where devices are missing."""
        devices = self._pool.take(spec.gpu, spec.tp)
        return ProcessEngine(
            self.program(spec, devices),
            chunk_interval_s=self._chunk_interval_s,
            on_freed=lambda: self._pool.give_back(devices),
        )

    def program(self, spec: ReplicaSpec, devices: tuple[int, ...]) -> Program:
        settings = self._settings
        arguments = shlex.split(settings.args) + shlex.split(settings.model_args.get(spec.model, ""))
        if spec.tp > 1:
            arguments += ["--tensor-parallel-size", str(spec.tp)]
        if spec.max_running:
            arguments += ["--max-num-seqs", str(spec.max_running)]
        if settings.kv_transfer:
            transfer = {"kv_role": _KV_ROLES[spec.role], **settings.kv_transfer}
            arguments += ["--kv-transfer-config", json.dumps(transfer)]
        inherited = {name: value for name, value in _DEFAULT_ENV.items() if name not in os.environ}
        return Program(
            argv=(settings.python or sys.executable, "-m", "autopoiesis.worker.engines.vllm"),
            configure=Configure(
                replica=spec.name,
                model=spec.model,
                checkpoint=settings.checkpoints.get(spec.model, spec.model),
                arguments=tuple(arguments),
            ),
            env={**inherited, **settings.env, "CUDA_VISIBLE_DEVICES": self._pool.visible(devices)},
        )
