"""Fit to a per-request log, by simulating the engine over the same arrivals and lengths.

Only measured times of the requests that are fitted to are used; the others' arrivals and lengths are load. Requests that hit
the prefix cache are simulated too, but no parameter is fitted to them: a hit taken for fast prefill is how other simulators
came to beat the roofline.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np

from autopoiesis.simulator.calibrate.fitting import (
    KNOBS,
    Fit,
    NotIdentifiableError,
    Vector,
    solve,
    with_values,
)
from autopoiesis.simulator.engine import EngineConfig, Job
from autopoiesis.simulator.hardware import Gpu
from autopoiesis.simulator.models import ModelShape
from autopoiesis.simulator.replica import Replica
from autopoiesis.simulator.steptime import Steps, StepTime

ENOUGH: Final = 20
"""Requests below which nothing is fitted."""
TTFT_WEIGHT: Final = 0.5
"""Of a relative error in time to first token, against one in end-to-end time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestSample:
    """One request of a log; times in seconds on one clock.

    `cached_tokens` of the prompt were prefix hits, as the engine reported. Where the log has `block_hashes` and the engine's
    configuration a prefix cache, hits come from simulating that cache; else cached tokens are taken off the prompt.
    """

    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    first_token_s: float
    end_s: float
    cached_tokens: int = 0
    block_hashes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSetup:
    """The engine that wrote a log."""

    gpu: Gpu
    model: ModelShape
    config: EngineConfig
    tp: int = 1
    async_scheduling: bool = True
    """The engine plans a step while the one before runs: an arrival joins one step later."""


class Times(NamedTuple):
    """When a request's first and last tokens came out, seconds on the log's clock."""

    first_token_s: float
    end_s: float


def play(
    requests: Sequence[RequestSample],
    steps: Steps,
    config: EngineConfig,
    *,
    request_overhead_s: float = 0.0,
    async_scheduling: bool = True,
) -> list[Times]:
    """Simulate one engine over the arrivals and lengths of `requests`. Raises `ValueError` for impossible ones."""
    replica = Replica(steps, config)
    last = -math.inf
    for index in sorted(range(len(requests)), key=lambda i: requests[i].arrival_s):
        request = requests[index]
        at = max(last, request.arrival_s + request_overhead_s)
        replica.submit(_joining(replica, at) if async_scheduling else at, _job(index, request, config))
        last = at
    first: dict[int, float] = {}
    end: dict[int, float] = {}
    for emission in replica.advance(math.inf):
        index = int(emission.id)
        first.setdefault(index, emission.time)
        if emission.finished:
            end[index] = emission.time
    return [Times(first[i], end[i]) for i in range(len(requests))]
