"""Fit an affine step model to sampled engine steps, for engines whose hardware or model the roofline does not describe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.optimize import least_squares, nnls

from autopoiesis.contracts.messages.telemetry import StepRecord
from autopoiesis.simulator.calibrate.fitting import NotIdentifiableError, Vector
from autopoiesis.simulator.steptime import AffineSteps

ENOUGH: Final = 20
ORDINARY: Final = 0.1
"""Relative error beyond which a step pulls no harder: one that the machine disturbed says little of the engine."""
TOO_SHORT: Final = 3.0
"""Modelled over measured beyond which a record is no step: two were noticed at once."""


@dataclass(frozen=True, slots=True)
class AffineFit:
    """`error` is the median relative error over the steps."""

    steps: AffineSteps
    error: float
    observations: int


def fit_affine(records: Sequence[StepRecord]) -> AffineFit:
    """Non-negative seconds per step, prompt token, KV token read and decoding sequence; robust, of relative errors.

    Engines sample by time, so a step is in the records with a chance in proportion to its duration. Weighted by the inverse of
    that, modelled and measured durations have the same sum: the level is that of all steps, not of those sampled.

    Coefficients that the steps do not tell apart fall to the larger one. Raises `NotIdentifiableError` for too few steps.
    """
    used = [record for record in records if record.duration_s > 0]
    if len(used) < ENOUGH:
        raise NotIdentifiableError("step_overhead_s", f"{len(used)} steps, at least {ENOUGH} are needed")
    seconds = np.array([record.duration_s for record in used])
    features = np.array(
        [(1, record.prefill_tokens, record.kv_tokens, record.decode_sequences) for record in used], float
    )
    scale = np.maximum(features.max(axis=0), 1.0)
    design = features / scale
    start, _ = nnls(design, seconds)
    floor = 1e-6 * float(np.median(seconds))

    def errors(coefficients: Vector) -> Vector:
        ratio: Vector = np.log(design @ coefficients + floor) - np.log(seconds)
        return ratio

    found = least_squares(
        errors, start + floor, bounds=(0.0, np.inf), loss="soft_l1", f_scale=ORDINARY, x_scale=seconds.mean()
    ).x
    ratios = np.exp(errors(found))
    found /= float(np.mean(ratios[ratios < TOO_SHORT]))
    base, prefill, kv, sequence = (found / scale).tolist()
    steps = AffineSteps(max(base, floor), prefill, kv, sequence)
    return AffineFit(steps, float(np.median(np.abs(np.expm1(errors(found))))), len(used))
