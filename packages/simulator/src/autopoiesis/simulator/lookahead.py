"""An engine that plans a step while the one before runs, as vLLM does with asynchronous scheduling.

The plan for a step is made when the step before begins. Therefore what arrives during a step joins after the next one, and what a
request held when it ended, its place in the batch and its KV pages, is free one step later. Lengths that are known (a limit that
is reached, a prompt whose last chunk runs) are planned ahead as they come. The host's work behind the accelerator's is in the
efficiencies; the step that a stop token wastes is not modelled.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappush

from autopoiesis.simulator.batch import Sequence
from autopoiesis.simulator.engine import EngineConfig, Job, ReplicaStats, RequestId
from autopoiesis.simulator.replica import Replica
from autopoiesis.simulator.steptime import Steps


class LookaheadReplica(Replica):
    """Between a step's end and the next one's, the engine is smaller by what ended ones still hold."""

    __slots__ = ("_arrived", "_joining", "_leaving")

    def __init__(
        self,
        step_time: Steps,
        config: EngineConfig,
        *,
        perturb: Callable[[], float] | None = None,
        stream: bool = False,
    ) -> None:
        super().__init__(step_time, config, perturb=perturb, stream=stream)
        self._arrived: list[Sequence] = []
        """During the step that runs."""
        self._joining: list[Sequence] = []
        """During the step before: the plan for the step that runs was made without them."""
        self._leaving: list[tuple[Sequence, int]] = []
        """Ended with the step before, and their own pages."""

    def submit(self, now: float, job: Job) -> None:
        if self.next_event < now:
            self._settle(now)
        if not self._run:
            super().submit(now, job)
            return
        known, self._waiting = self._waiting, []
        try:
            super().submit(now, job)
            self._arrived += [sequence for _, _, sequence in self._waiting]
        finally:
            self._waiting = known
        if self._run > 1:
            self._interrupt(now)

    def stats(self, now: float) -> ReplicaStats:
        return super().stats(now)._replace(kv_capacity_tokens=self.config.kv_blocks * self._pages)

    def drop_all(self) -> list[RequestId]:
        lost = super().drop_all()
        self._arrived, self._joining = [], []
        self._leave()
        return lost

    def _boundary(self, now: float) -> float:
        self._leave()
        self._join()
        end = super()._boundary(now)
        if not self._run:  # nothing was left to plan ahead: what ended is seen before the next plan
            if self._leaving or self._joining:
                self._leave()
                self._join()
                self.next_event = now
                end = super()._boundary(now)
        elif self._run > 1 and (self._leaving or self._joining):
            self._run = 1
            self.next_event = end = now + self._first
        return end

    def _join(self) -> None:
        for sequence in self._joining:
            if not sequence.cancelled:
                heappush(self._waiting, (sequence.job.priority, sequence.order, sequence))
        self._joining, self._arrived = self._arrived, []

    def _leave(self) -> None:
        for sequence, pages in self._leaving:
            self._free(sequence, pages)
        self._leaving = []
        self._most_running, self._blocks = self.config.max_running, self.config.kv_blocks

    def _retire(self, sequence: Sequence, private_pages: int) -> None:
        self._leaving.append((sequence, private_pages))
        self._most_running -= 1
        self._blocks -= private_pages

    def _finish(self, sequence: Sequence, now: float) -> None:
        if self._cache is None:
            context = sequence.job.prompt_tokens + sequence.job.output_tokens - 1
            self._retire(sequence, -(-context // self._pages))
        super()._finish(sequence, now)


def engine_of(
    step_time: Steps,
    config: EngineConfig,
    *,
    perturb: Callable[[], float] | None = None,
    stream: bool = False,
) -> Replica:
    """The engine that `config` describes."""
    kind = LookaheadReplica if config.async_scheduling else Replica
    return kind(step_time, config, perturb=perturb, stream=stream)
