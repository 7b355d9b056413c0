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
from autopoiesis.simulator.lookahead import engine_of
from autopoiesis.simulator.models import ModelShape
from autopoiesis.simulator.steptime import Steps, StepTime

ENOUGH: Final = 20
"""Requests below which nothing is fitted."""
PRIOR: Final = 0.15
"""Weight of measured kernels (`solve`): requests of one batch err together, so a log tells less than its length suggests."""
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
    """The engine plans a step while the one before runs."""


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
    engine = engine_of(steps, replace(config, async_scheduling=async_scheduling))
    for index in sorted(range(len(requests)), key=lambda i: requests[i].arrival_s):
        job = _job(index, requests[index], config)
        engine.submit(requests[index].arrival_s + request_overhead_s, job)
    emissions = engine.advance(math.inf)
    first: dict[object, float] = {}
    end: dict[object, float] = {}
    for emission in emissions:
        first.setdefault(emission.id, emission.time)
        if emission.finished:
            end[emission.id] = emission.time
    return [Times(first[i], end[i]) for i in range(len(requests))]


def fit_requests(
    setup: EngineSetup,
    requests: Sequence[RequestSample],
    *,
    fitted_to: Sequence[int] | None = None,
    parameters: Sequence[str] | None = None,
    seed: int = 0,
) -> Fit:
    """Efficiencies, step overhead and overhead per request (arrival to the engine's queue) that make the log come out.

    `fitted_to`: indices of the requests whose measured times may be used, by default all. With `parameters` exactly these are
    fitted or refused; without, whatever the log identifies. Raises `NotIdentifiableError` naming a parameter and the reason,
    `ValueError` for impossible requests or unknown names.
    """
    names = tuple(parameters or KNOBS)
    if unknown := set(names) - set(KNOBS):
        raise ValueError(f"unknown parameters {sorted(unknown)}; known are {', '.join(KNOBS)}")
    _check(requests)
    chosen = range(len(requests)) if fitted_to is None else fitted_to
    cold = sorted((i for i in chosen if not requests[i].cached_tokens), key=lambda i: requests[i].arrival_s)
    hits = [i for i in chosen if requests[i].cached_tokens]
    if len(cold) < ENOUGH:
        reason = f"{len(cold)} requests without prefix hits, at least {ENOUGH} are needed"
        raise NotIdentifiableError(names[0], reason)
    start = setup.gpu.efficiency

    def simulate(values: Mapping[str, float]) -> list[Times]:
        steps = StepTime(setup.gpu, setup.model, setup.tp, with_values(start, values))
        return play(
            requests,
            steps,
            setup.config,
            request_overhead_s=values["request_overhead_s"],
            async_scheduling=setup.async_scheduling,
        )

    def residuals(values: Mapping[str, float]) -> Vector:
        times = simulate(values)
        return np.array([error for i in cold for error in _errors(requests[i], times[i])])

    fit = solve(
        residuals,
        start,
        names,
        _unseen(requests, cold),
        required=parameters or (),
        per_observation=2,
        prior=PRIOR,
        seed=seed,
    )
    fitted = {p.name: p.value for p in fit.parameters}
    times = simulate({**fitted, "request_overhead_s": fit.request_overhead_s})
    end_to_end = [abs(_errors(requests[i], times[i])[0]) for i in cold]
    fit = replace(fit, error=float(np.median(end_to_end)))
    if not hits:
        return fit
    late = [requests[i].first_token_s - times[i].first_token_s for i in hits]
    errors = [abs(_errors(requests[i], times[i])[0]) for i in hits]
    return replace(fit, hit_error=float(np.median(errors)), hit_overhead_s=float(np.median(late)))


def _job(index: int, request: RequestSample, config: EngineConfig) -> Job:
    if config.prefix_block_tokens and request.block_hashes:
        return Job(index, request.prompt_tokens, request.output_tokens, block_hashes=request.block_hashes)
    return Job(index, max(1, request.prompt_tokens - request.cached_tokens), request.output_tokens)


def _errors(request: RequestSample, times: Times) -> tuple[float, float]:
    """Relative errors of end-to-end time and (weighted) of time to first token, as logarithms of the ratio."""
    end_to_end = math.log((times.end_s - request.arrival_s) / (request.end_s - request.arrival_s))
    first = math.log((times.first_token_s - request.arrival_s) / (request.first_token_s - request.arrival_s))
    return end_to_end, TTFT_WEIGHT * first


def _check(requests: Sequence[RequestSample]) -> None:
    for index, request in enumerate(requests):
        if not request.arrival_s < request.first_token_s <= request.end_s:
            raise ValueError(
                f"request {index}: arrival, first token and end must follow in time, got {request}"
            )
        if not 0 <= request.cached_tokens < request.prompt_tokens:
            raise ValueError(f"request {index}: cached_tokens must be below prompt_tokens, got {request}")


def _unseen(requests: Sequence[RequestSample], cold: Sequence[int]) -> dict[str, str]:
    """Parameters that no request of this kind of log can tell."""
    refused = {}
    if not any(requests[i].output_tokens > 1 for i in cold):
        reason = "no request has more than one output token, so none shows a decode step"
        refused = dict.fromkeys(("weights", "decode_attention"), reason)
    return refused
