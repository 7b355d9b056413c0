"""A trace made ready for many runs: events built once, lengths and sizes as plain lists."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from autopoiesis.contracts.slo import Objectives
from autopoiesis.dispatch.events import Arrival
from autopoiesis.simulator.requests.settings import WorldSettings
from autopoiesis.simulator.workload.trace import Floats, Ints, Trace

BYTES_PER_TOKEN = 4.0
BYTES_SIGMA = 0.15
"""Spread of the logarithm of a client's bytes per token; routers must estimate tokens from bytes."""


class Prepared:
    """Read-only; one trace, one seed, any number of worlds. Censored lengths are drawn here."""

    def __init__(
        self, trace: Trace, objectives: Objectives, model: str, settings: WorldSettings, seed: int = 0
    ) -> None:
        self.trace, limits = _limited(trace.uncensored(seed), settings.max_tokens)
        trace = self.trace
        self.objectives = objectives
        self.model = model
        self.seed = seed
        rng = np.random.default_rng([seed, 11])
        self.prompt: list[int] = _listed(trace.prompt_tokens)
        self.output: list[int] = _listed(trace.output_tokens)
        self.router: list[int] = _listed(rng.integers(0, settings.routers, len(trace)))
        self.blocks = trace.block_hashes or ((),) * len(trace)
        self.think: list[float] = _listed(trace.think_s)
        roots = np.flatnonzero(trace.parent < 0)
        self.roots: list[int] = roots.tolist()
        self.root_times: list[float] = trace.arrival[roots].tolist()
        self.children: dict[int, list[int]] = {}
        for child in np.flatnonzero(trace.parent >= 0).tolist():
            self.children.setdefault(int(trace.parent[child]), []).append(child)
        goals = [objectives.of(name) for name in trace.classes]
        self.ttft_slo = _slo(trace.ttft_slo_s, [goal.ttft_s for goal in goals], trace.klass)
        self.tpot_slo = _slo(trace.tpot_slo_s, [goal.tpot_s for goal in goals], trace.klass)
        """Objectives of each arrival, seconds, infinite where there is none."""
        self.events = self._events(model, _listed(limits), rng)

    def __len__(self) -> int:
        return len(self.events)

    def _events(self, model: str, limits: list[int], rng: np.random.Generator) -> list[Arrival]:
        """What routers see: sizes in bytes, token limits, never the output's length."""
        trace = self.trace
        sizes = trace.prompt_bytes
        if sizes is None:
            who = np.where(trace.tenant > 0, trace.tenant, trace.session)
            _, of_row = np.unique(np.where(who > 0, who, -1 - np.arange(len(trace))), return_inverse=True)
            ratio = BYTES_PER_TOKEN * np.exp(BYTES_SIGMA * rng.standard_normal(of_row.max(initial=0) + 1))
            sizes = np.maximum(1, np.round(trace.prompt_tokens * ratio[of_row])).astype(np.int64)
        session = [str(n) if n else "" for n in trace.session.tolist()]
        tenant = [str(n) if n else "" for n in trace.tenant.tolist()]
        workflow = [""] * len(trace)
        if trace.workflow is not None:
            workflow = [str(n) if n else "" for n in trace.workflow.tolist()]
        priority = [self.objectives.of(name).priority for name in trace.classes]
        ttft, tpot = _listed(self.ttft_slo), _listed(self.tpot_slo)
        events: list[Arrival] = []
        rows = zip(_listed(sizes), limits, trace.klass.tolist(), strict=True)
        for row, (size, most, number) in enumerate(rows):
            name = trace.classes[number]
            events.append(
                Arrival(
                    request_id=str(row),
                    model=model,
                    prompt_bytes=size,
                    max_tokens=most,
                    priority=priority[number],
                    klass=name,
                    tenant=tenant[row],
                    session=session[row],
                    workflow=workflow[row],
                    ttft_slo=ttft[row],
                    tpot_slo=tpot[row],
                    block_hashes=self.blocks[row],
                )
            )
        return events


def _listed(column: Floats | Ints) -> list[Any]:
    """Plain numbers, one object for all that are equal: a list of a million then takes megabytes."""
    numbers: dict[Any, Any] = {}
    return [numbers.setdefault(number, number) for number in column.tolist()]


def _slo(own: Floats | None, of_class: list[float | None], klass: Ints) -> Floats:
    """A request's own objective, else its class's, else infinity."""
    common = np.array([math.inf if goal is None else goal for goal in of_class])[klass]
    return common if own is None else np.where(np.isnan(own), common, own)


def _limited(trace: Trace, least: int) -> tuple[Trace, Ints]:
    """Recorded limits, kept by the outputs; else one for all that no output exceeds, so that it tells nothing of any."""
    if trace.max_tokens is None:
        limit = max(least, 1 << int(trace.output_tokens.max(initial=1)).bit_length())
        return trace, np.full(len(trace), limit)
    limits = np.maximum(1, trace.max_tokens)
    return replace(trace, output_tokens=np.minimum(trace.output_tokens, limits)), limits
