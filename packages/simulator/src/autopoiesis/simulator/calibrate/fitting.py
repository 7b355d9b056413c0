"""Bounded robust least squares over the parameters of an engine, with uncertainty and refusal.

A parameter is identified when, around the solution, its standard error without any prior is below `Knob.limit`. The worst one
that is not is held at its starting value and the rest fitted again, until all that remain are identified.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from autopoiesis.simulator.hardware import Efficiency

Vector = NDArray[np.float64]
Residuals = Callable[[Mapping[str, float]], Vector]
"""Relative errors of the data under parameter values by name, one group of equal length per observation."""

ROBUST_SCALE: Final = 0.05
"""Relative errors above this count as outliers, linearly instead of squared."""
WIDENINGS: Final = (8.0, 1.0)
"""The search looks from afar first (steps and robust scale times this): a schedule jumps, and nearby slopes mislead."""
BOOTSTRAPS: Final = 400
BLOCKS: Final = 12
"""Consecutive observations are resampled in this many blocks: neighbours in a log shared a batch and a queue."""


class NotIdentifiableError(ValueError):
    """The data says nothing about a parameter that was asked for; `parameter` names it, `reason` says why."""

    def __init__(self, parameter: str, reason: str) -> None:
        super().__init__(f"cannot fit {parameter}: {reason}")
        self.parameter = parameter
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Knob:
    """How one parameter is searched: shares on a logarithmic scale, seconds on a linear one."""

    share: bool
    low: float
    high: float
    step: float
    """Of the finite differences, on the search scale: large enough to look across the jumps of a scheduler."""
    limit: float
    """Largest standard error, on the search scale, of a parameter that counts as identified."""

    def inside(self, value: float) -> float:
        """On the search scale."""
        return math.log(value) if self.share else value * 1e3

    def outside(self, coordinate: float) -> float:
        value = math.exp(coordinate) if self.share else float(coordinate) * 1e-3
        return min(self.high, max(self.low, value))


_SHARE: Final = Knob(share=True, low=0.05, high=1.0, step=0.02, limit=0.15)
KNOBS: Final[dict[str, Knob]] = {
    "matmul": _SHARE,
    "weights": _SHARE,
    "prefill_attention": _SHARE,
    "decode_attention": _SHARE,
    "step_overhead_s": Knob(share=False, low=0.0, high=0.1, step=0.1, limit=1.0),
    "request_overhead_s": Knob(share=False, low=0.0, high=2.0, step=2.0, limit=25.0),
}
"""Everything that can be fitted. Shares are of the roofline, so none may pass 1."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One fitted value with its 95 % interval; `start` is where the search began."""

    name: str
    value: float
    low: float
    high: float
    start: float


@dataclass(frozen=True, slots=True)
class Fit:
    """What was learnt. `refused` gives, by name, why a parameter kept its starting value."""

    efficiency: Efficiency
    request_overhead_s: float
    parameters: tuple[Parameter, ...]
    refused: Mapping[str, str]
    error: float
    """Median absolute relative error of what was fitted to, after the fit."""
    observations: int
    hit_error: float | None = None
    """The same over requests that hit the prefix cache, which no parameter was fitted to; none where there were none."""
    hit_overhead_s: float | None = None
    """Median of what requests with prefix hits took to their first token beyond the fitted model, seconds."""


def start_values(efficiency: Efficiency, request_overhead_s: float = 0.0) -> dict[str, float]:
    """Starting values by parameter name."""
    values = {name: float(getattr(efficiency, name)) for name in KNOBS if name != "request_overhead_s"}
    return {**values, "request_overhead_s": request_overhead_s}


def with_values(efficiency: Efficiency, values: Mapping[str, float]) -> Efficiency:
    """The efficiency with the fitted values in it."""
    changes: dict[str, Any] = {name: value for name, value in values.items() if name != "request_overhead_s"}
    return replace(efficiency, **changes)


def solve(
    residuals: Residuals,
    efficiency: Efficiency,
    candidates: Sequence[str],
    refused: Mapping[str, str],
    *,
    required: Sequence[str] = (),
    per_observation: int = 1,
    prior: float = 0.0,
    seed: int = 0,
) -> Fit:
    """Fit `candidates`; those already in `refused` are not tried. Raises `NotIdentifiableError` for one that is `required`.

    `prior` is the error that one `Knob.limit` away from the start costs: where two parameters explain the data alike, the one
    nearer to measured kernels is taken. It has no part in what counts as identified.
    """
    refused = dict(refused)
    start = start_values(efficiency)
    names = [name for name in candidates if name not in refused]
    while True:
        for name in required:
            if name in refused:
                raise NotIdentifiableError(name, refused[name])
        if not names:
            raise NotIdentifiableError(*next(iter(refused.items())))
        point, jacobian, errors = _minimize(residuals, start, names, prior)
        worst, reason = _least_identified(names, jacobian, errors)
        if worst is None:
            break
        refused[worst] = reason
        names.remove(worst)
    values = {**start, **_values(names, point)}
    spread = _bootstrap(jacobian, errors, per_observation, seed)
    parameters = tuple(
        _parameter(name, x, deviations, start[name])
        for name, x, deviations in zip(names, point, spread.T, strict=True)
    )
    return Fit(
        efficiency=with_values(efficiency, values),
        request_overhead_s=values["request_overhead_s"],
        parameters=parameters,
        refused=refused,
        error=float(np.median(np.abs(errors))),
        observations=len(errors) // per_observation,
    )


def _values(names: Sequence[str], point: Vector) -> dict[str, float]:
    return {name: KNOBS[name].outside(float(x)) for name, x in zip(names, point, strict=True)}


def _parameter(name: str, x: float, deviations: Vector, start: float) -> Parameter:
    knob = KNOBS[name]
    low, high = np.percentile(x + deviations, [2.5, 97.5])
    return Parameter(name, knob.outside(x), knob.outside(float(low)), knob.outside(float(high)), start)


def _minimize(
    residuals: Residuals, start: Mapping[str, float], names: Sequence[str], prior: float
) -> tuple[Vector, Vector, Vector]:
    """Solution on the search scale, Jacobian and residuals there."""
    knobs = [KNOBS[name] for name in names]
    low = np.array([k.inside(k.low) for k in knobs])
    high = np.array([k.inside(k.high) for k in knobs])
    steps = np.array([k.step for k in knobs])
    margin = 1e-6 * (high - low)

    def errors(x: Vector) -> Vector:
        return residuals({**start, **_values(names, x)})

    def slopes(x: Vector, widening: float = 1.0) -> Vector:
        here = errors(x)
        columns = []
        for index, step in enumerate(steps * widening):
            moved = x.copy()
            signed = -step if x[index] + step > high[index] else step
            moved[index] += signed
            columns.append((errors(moved) - here) / signed)
        return np.stack(columns, axis=1)

    begin = np.array([k.inside(max(start[name], k.low)) for name, k in zip(names, knobs, strict=True)])
    pull = prior * np.diag([1 / k.limit for k in knobs])

    def cost(x: Vector) -> Vector:
        return np.concatenate([errors(x), pull @ (x - begin)])

    def cost_slopes(widening: float) -> Callable[[Vector], Vector]:
        return lambda x: np.concatenate([slopes(x, widening), pull])

    point = begin
    for widening in WIDENINGS:
        found = least_squares(
            cost,
            np.clip(point, low + margin, high - margin),
            jac=cost_slopes(widening),
            bounds=(low, high),
            x_scale=10 * steps,
            loss="soft_l1",
            f_scale=ROBUST_SCALE * widening,
            xtol=1e-5,
            ftol=1e-6,
            max_nfev=60,
        )
        point = np.asarray(found.x, dtype=np.float64)
    return point, slopes(point), errors(point)


def _weights(errors: Vector) -> Vector:
    """Of the robust loss: 1 for small errors, falling with their size."""
    weights: Vector = 1.0 / np.sqrt(1.0 + np.square(errors / ROBUST_SCALE))
    return weights


def _least_identified(names: Sequence[str], jacobian: Vector, errors: Vector) -> tuple[str | None, str]:
    """The parameter with the largest standard error against its limit, if any is above, and why."""
    weights = _weights(errors)
    freedom = max(1, len(errors) - len(names)) / len(errors)
    scale = max(float(1.4826 * np.median(np.abs(errors))) ** 2 / freedom, 1e-6)
    information = (jacobian * weights[:, None]).T @ jacobian / scale
    limits = np.array([KNOBS[name].limit for name in names])
    scaled = information * np.outer(limits, limits)
    covariance = np.linalg.inv(scaled + 1e-9 * np.eye(len(names)))
    ratios = np.sqrt(np.diag(covariance))
    index = int(np.argmax(ratios))
    if ratios[index] <= 1:
        return None, ""
    name = names[index]
    alone = 1 / math.sqrt(max(float(scaled[index, index]), 1e-18))
    if alone > 1:
        effect = float(np.sqrt(np.mean(jacobian[:, index] ** 2))) * KNOBS[name].limit
        return name, f"the data hardly depends on it ({_unit(name)} would change it by {effect:.1%})"
    correlation = covariance[index] / (ratios[index] * ratios)
    correlation[index] = 0
    other = names[int(np.argmax(np.abs(correlation)))]
    return name, f"its effect cannot be told apart from that of {other} in this data"


def _unit(name: str) -> str:
    knob = KNOBS[name]
    return f"{knob.limit:.0%} more of it" if knob.share else f"{knob.limit:g} ms more of it"


def _bootstrap(jacobian: Vector, errors: Vector, per_observation: int, seed: int) -> Vector:
    """Deviations of the solution when blocks of consecutive observations are resampled, to first order."""
    rng = np.random.default_rng(seed)
    count = len(errors) // per_observation
    grouped = np.arange(len(errors)).reshape(count, per_observation)
    block = max(1, count // BLOCKS)
    blocks = [grouped[i : i + block].ravel() for i in range(0, count, block)]
    weighted = np.sqrt(_weights(errors))
    rows, targets = jacobian * weighted[:, None], -errors * weighted
    center = np.linalg.lstsq(rows, targets, rcond=None)[0]
    deviations = []
    for _ in range(BOOTSTRAPS):
        chosen = np.concatenate([blocks[i] for i in rng.integers(0, len(blocks), len(blocks))])
        deviations.append(np.linalg.lstsq(rows[chosen], targets[chosen], rcond=None)[0] - center)
    return np.array(deviations)
