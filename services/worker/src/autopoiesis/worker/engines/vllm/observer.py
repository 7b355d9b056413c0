"""A stat logger that vLLM pushes its figures to: nothing is scraped."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from vllm.config import VllmConfig
from vllm.v1.metrics.loggers import StatLoggerBase
from vllm.v1.metrics.stats import IterationStats, MultiModalCacheStats, SchedulerStats

from autopoiesis.worker.engines.base import EngineStats
from autopoiesis.worker.engines.vllm.steps import StepWatch

SAMPLE_S: Final = 0.1


class Observer(StatLoggerBase):  # type: ignore[misc]
    """One per engine core, made while vLLM starts."""

    def __init__(self, vllm_config: VllmConfig, engine_index: int = 0) -> None:
        self.config = vllm_config
        self.clock: Callable[[], tuple[float, float]] = lambda: (0.0, time.monotonic())
        """Of the step that is being recorded: when a request was scheduled that began with it (0: none), and its end; monotonic seconds."""
        self.steps = StepWatch(
            chunk_tokens=vllm_config.scheduler_config.max_num_batched_tokens,
            kv_capacity_tokens=self.kv_capacity_tokens,
            sample_s=SAMPLE_S,
        )
        self._scheduler = SchedulerStats()
        self._queries = self._hits = 0

    @property
    def kv_capacity_tokens(self) -> int:
        cache = self.config.cache_config
        return int((cache.num_gpu_blocks or 0) * cache.block_size)

    def record(
        self,
        scheduler_stats: SchedulerStats | None,
        iteration_stats: IterationStats | None,
        mm_cache_stats: MultiModalCacheStats | None = None,
        engine_idx: int = 0,
    ) -> None:
        if scheduler_stats is None:
            return
        self._scheduler = scheduler_stats
        self._queries += scheduler_stats.prefix_cache_stats.queries
        self._hits += scheduler_stats.prefix_cache_stats.hits
        details = scheduler_stats.iteration_details
        if details is not None and not details.is_dummy:
            scheduled_at, ended_at = self.clock()
            self.steps.step(
                ended_at,
                time.time(),
                scheduled_at=scheduled_at,
                prefill_tokens=details.num_ctx_tokens,
                decode_sequences=details.num_generation_requests,
                kv_share=scheduler_stats.kv_cache_usage,
                goes_on=scheduler_stats.num_running_reqs > 0,
            )

    def log_engine_initialized(self) -> None:
        """Nothing to say: the node's worker logs it."""

    def stats(self, *, adapters: tuple[str, ...], evictions: int, evicted: tuple[int, ...]) -> EngineStats:
        seen = self._scheduler
        return EngineStats(
            state="ready",
            running=seen.num_running_reqs,
            waiting=seen.num_waiting_reqs + seen.num_skipped_waiting_reqs,
            kv_used_tokens=round(seen.kv_cache_usage * self.kv_capacity_tokens),
            kv_capacity_tokens=self.kv_capacity_tokens,
            max_running=self.config.scheduler_config.max_num_seqs,
            step_time_s=self.steps.mean_s,
            step_model=self.steps.model,
            prefix_queries=self._queries,
            prefix_hits=self._hits,
            adapters=adapters,
            evictions=evictions,
            evicted=evicted,
        )
