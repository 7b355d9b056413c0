"""Fit an affine step model to sampled engine steps, for engines whose hardware or model the roofline does not describe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.optimize import nnls

from autopoiesis.contracts.messages.telemetry import StepRecord
from autopoiesis.simulator.calibrate.fitting import NotIdentifiableError
from autopoiesis.simulator.steptime import AffineSteps

ENOUGH: Final = 20
ROUNDS: Final = 20
_CUT: Final = 2.0
"""Median absolute errors beyond which a step pulls no harder: one that the machine disturbed says little of the engine."""


@dataclass(frozen=True, slots=True)
class AffineFit:
    """`error` is the median relative error over the steps."""

    steps: AffineSteps
    error: float
    observations: int


def fit_affine(records: Sequence[StepRecord]) -> AffineFit:
    """Non-negative seconds per step, prompt token, KV token read and decoding sequence; robust, of relative errors.

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
    relative = features / scale / seconds[:, None]
    weights = np.ones(len(used))
    errors = np.zeros(len(used))
    found = np.zeros(4)
    for _ in range(ROUNDS):
        found, _ = nnls(relative * weights[:, None], weights)
        errors = relative @ found - 1
        width = _CUT * max(float(np.median(np.abs(errors))), 1e-6)
        weights = np.sqrt(np.minimum(1.0, width / np.maximum(np.abs(errors), 1e-12)))
    base, prefill, kv, sequence = (found / scale).tolist()
    steps = AffineSteps(max(base, 1e-6), prefill, kv, sequence)
    return AffineFit(steps, float(np.median(np.abs(errors))), len(used))
