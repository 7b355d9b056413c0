"""A trace made ready for many runs: events built once, lengths and sizes as plain lists."""

from __future__ import annotations

import math

import numpy as np

from autopoiesis.contracts.slo import Objectives
from autopoiesis.dispatch.events import Arrival
from autopoiesis.simulator.requests.settings import WorldSettings
from autopoiesis.simulator.workload.trace import Trace

BYTES_PER_TOKEN = 4.0
BYTES_SIGMA = 0.15
"""Spread of the logarithm of a client's bytes per token; routers must estimate tokens from bytes."""


class Prepared:
    """Read-only; one trace, one seed, any number of worlds. Censored lengths are drawn here."""

    def __init__(
        self, trace: Trace, objectives: Objectives, model: str, settings: WorldSettings, seed: int = 0
    ) -> None:
        self.trace = trace = trace.uncensored(seed)
        self.objectives = objectives
        self.seed = seed
        rng = np.random.default_rng([seed, 11])
        self.prompt: list[int] = trace.prompt_tokens.tolist()
        self.output: list[int] = trace.output_tokens.tolist()
        self.router: list[int] = rng.integers(0, settings.routers, len(trace)).tolist()
        self.blocks = trace.block_hashes or ((),) * len(trace)
        self.think: list[float] = trace.think_s.tolist()
        roots = np.flatnonzero(trace.parent < 0)
        self.roots: list[int] = roots.tolist()
        self.root_times: list[float] = trace.arrival[roots].tolist()
        self.children: dict[int, list[int]] = {}
        for child in np.flatnonzero(trace.parent >= 0).tolist():
            self.children.setdefault(int(trace.parent[child]), []).append(child)
        self.events = self._events(model, settings, rng)
        self.rows = {event.request_id: row for row, event in enumerate(self.events)}

    def __len__(self) -> int:
        return len(self.events)

    def _events(self, model: str, settings: WorldSettings, rng: np.random.Generator) -> list[Arrival]:
        """What routers see: sizes in bytes, the same token limit for all, never the output's length."""
        trace = self.trace
        sizes = trace.prompt_bytes
        if sizes is None:
            who = np.where(trace.tenant > 0, trace.tenant, trace.session)
            _, of_row = np.unique(np.where(who > 0, who, -1 - np.arange(len(trace))), return_inverse=True)
            ratio = BYTES_PER_TOKEN * np.exp(BYTES_SIGMA * rng.standard_normal(of_row.max(initial=0) + 1))
            sizes = np.maximum(1, np.round(trace.prompt_tokens * ratio[of_row])).astype(np.int64)
        limit = max(settings.max_tokens, 1 << int(trace.output_tokens.max(initial=1)).bit_length())
        classes = [(name, self.objectives.of(name)) for name in trace.classes]
        session = [str(n) if n else "" for n in trace.session.tolist()]
        tenant = [str(n) if n else "" for n in trace.tenant.tolist()]
        events: list[Arrival] = []
        for row, (size, number) in enumerate(zip(sizes.tolist(), trace.klass.tolist(), strict=True)):
            name, goal = classes[number]
            events.append(
                Arrival(
                    request_id=str(row),
                    model=model,
                    prompt_bytes=size,
                    max_tokens=limit,
                    priority=goal.priority,
                    klass=name,
                    tenant=tenant[row],
                    session=session[row],
                    ttft_slo=math.inf if goal.ttft_s is None else goal.ttft_s,
                    tpot_slo=math.inf if goal.tpot_s is None else goal.tpot_s,
                    block_hashes=self.blocks[row],
                )
            )
        return events
