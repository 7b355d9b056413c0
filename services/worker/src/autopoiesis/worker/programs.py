"""How a replica becomes the process of a vLLM."""

from __future__ import annotations

import json
import os
import shlex
import sys
from dataclasses import dataclass, replace
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


@dataclass(frozen=True, slots=True)
class _Made:
    """What an engine is for, whatever its replica is called, and the devices that its process sees."""

    spec: ReplicaSpec
    devices: tuple[int, ...]


class VllmFactory:
    """A `node.EngineFactory`: takes devices for each engine, and gives them back when its memory is free.

    Up to `vllm.sleepers` of those that are stopped sleep, the last ones, and are what a later call for their like returns.
    """

    def __init__(self, settings: VllmSettings, pool: DevicePool, *, chunk_interval_s: float) -> None:
        self._settings = settings
        self._pool = pool
        self._chunk_interval_s = chunk_interval_s
        self._asleep: dict[ProcessEngine, _Made] = {}  # longest asleep first
        self._closed = False

    def __call__(self, spec: ReplicaSpec, planned: bool) -> ProcessEngine:
        """Raises `ValueError` where devices are missing."""
        alike = replace(spec, name="")
        for engine, made in self._asleep.items():
            if engine.sleeps and made.spec == alike and self._pool.take_again(made.devices):
                del self._asleep[engine]
                return engine
        devices = self._pool.take(spec.gpu, spec.tp)
        made = _Made(alike, devices)
        return ProcessEngine(
            self.program(spec, devices),
            chunk_interval_s=self._chunk_interval_s,
            on_freed=lambda: self._pool.give_back(devices),
            may_sleep=lambda engine: self._shelve(engine, made),
        )

    async def aclose(self) -> None:
        """End all that sleep; none does any more."""
        self._closed = True
        while self._asleep:
            await self._end_oldest()

    async def _shelve(self, engine: ProcessEngine, made: _Made) -> bool:
        """Whether there is room for one more to sleep."""
        if self._closed or not self._settings.sleepers:
            return False
        self._asleep = {one: its for one, its in self._asleep.items() if one.pid is not None}
        while len(self._asleep) >= self._settings.sleepers:
            await self._end_oldest()
        self._asleep[engine] = made
        return True

    async def _end_oldest(self) -> None:
        engine = next(iter(self._asleep))
        del self._asleep[engine]
        await engine.end()

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
                sleeps=settings.sleepers > 0,
            ),
            env={**inherited, **settings.env, "CUDA_VISIBLE_DEVICES": self._pool.visible(devices)},
        )
