"""Has the workload moved? Two-sample Kolmogorov-Smirnov per feature, Holm over features, effect size, hysteresis.

Arrivals go into blocks; each full block is compared with the reference blocks. A shift is announced only when the same
feature differs in `confirm` successive blocks; then those blocks become the new reference.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from autopoiesis.observer.recent import Columns

TEST = "two-sample Kolmogorov-Smirnov, Holm-corrected"
Sample = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Shift:
    """One feature that moved. `before` and `after` are means (for `arrival_rate`: requests per s)."""

    feature: str
    statistic: float
    p_value: float
    """Holm-adjusted."""
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class DriftRule:
    """When a difference counts."""

    alpha: float = 0.01
    """Family-wise error of one comparison."""
    min_statistic: float = 0.15
    """Least distance between the distribution functions, 0 to 1."""
    min_change: float = 0.2
    """Least relative change of the mean, or of the spread (standard deviation) where the mean stands still."""
    confirm: int = 2
    """Successive blocks in which a feature must differ."""
    reference_blocks: int = 4
    """Newest undisturbed blocks that are compared with."""
    max_sample: int = 500
    """Values per side; more would make every trifle significant."""


def features(rows: Columns) -> dict[str, Sample]:
    """Samples of a block of arrivals (dtype `recent.ROW`, by time); `arrival_rate` is tested on the gaps."""
    ended = rows["finished"] & ~rows["censored"]
    return {
        "arrival_rate": np.diff(rows["arrival_unix_s"]).astype(np.float64),
        "prompt_tokens": rows["prompt_tokens"].astype(np.float64),
        "output_tokens": rows["output_tokens"][ended].astype(np.float64),
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment, in the order given."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, floor = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        floor = max(floor, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = floor
    return adjusted


def _thin(sample: Sample, size: int) -> Sample:
    """Evenly spaced values: neighbours in a bursty trace are not independent, so thinning also helps the test."""
    if sample.size <= size:
        return sample
    thinned: Sample = sample[np.linspace(0, sample.size - 1, size).astype(int)]
    return thinned


def _relative(before: float, after: float) -> float:
    return abs(after - before) / max(abs(before), 1e-12)


def compare(reference: Mapping[str, Sample], block: Mapping[str, Sample], rule: DriftRule) -> list[Shift]:
    """Features of `block` that differ from `reference` by test and by size. Features with under 20 values are skipped."""
    names = [n for n in block if min(block[n].size, reference[n].size) >= 20]
    if not names:
        return []
    tests: list[Any] = [
        stats.ks_2samp(_thin(reference[n], rule.max_sample), _thin(block[n], rule.max_sample), method="asymp")
        for n in names
    ]
    adjusted = holm([float(t.pvalue) for t in tests])
    shifts = []
    for name, test, p_value in zip(names, tests, adjusted, strict=True):
        before, after = float(reference[name].mean()), float(block[name].mean())
        spread = _relative(float(reference[name].std()), float(block[name].std()))
        size = max(_relative(before, after), spread)
        if p_value <= rule.alpha and test.statistic >= rule.min_statistic and size >= rule.min_change:
            if name == "arrival_rate":
                before, after = 1 / max(before, 1e-9), 1 / max(after, 1e-9)
            shifts.append(Shift(name, float(test.statistic), p_value, before, after))
    return shifts


@dataclass(slots=True)
class DriftDetector:
    """Reference, and what is suspected. One per scope."""

    rule: DriftRule = field(default_factory=DriftRule)
    _reference: deque[dict[str, Sample]] = field(init=False)
    _suspects: list[tuple[dict[str, Sample], set[str]]] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self._reference = deque(maxlen=self.rule.reference_blocks)

    def offer(self, rows: Columns) -> list[Shift]:
        """The next block of arrivals; returns the confirmed shifts, mostly none."""
        block = features(rows)
        if not self._reference:
            self._reference.append(block)
            return []
        shifts = compare(self._pooled(), block, self.rule)
        if not shifts:
            self._reference.extend([b for b, _ in self._suspects])
            self._reference.append(block)
            self._suspects.clear()
            return []
        self._suspects.append((block, {s.feature for s in shifts}))
        recent = [names for _, names in self._suspects[-self.rule.confirm :]]
        steady = set.intersection(*recent)
        if len(recent) < self.rule.confirm or not steady:
            return []
        self._reference.clear()
        self._reference.extend([b for b, _ in self._suspects[-self.rule.confirm :]])
        self._suspects.clear()
        return [s for s in shifts if s.feature in steady]

    def _pooled(self) -> dict[str, Sample]:
        return {n: np.concatenate([b[n] for b in self._reference]) for n in self._reference[0]}
