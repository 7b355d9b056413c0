"""Does the simulator put policies in the order in which a real fleet does? Kendall's tau, and what noise could have turned round."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Final

from scipy.stats import kendalltau

FIGURES: Final = ("goodput", "ttft")
Runs = Mapping[str, Sequence[Mapping[str, float]]]
"""By policy, the figures of each repeat."""


def compare(measured: Runs, simulated: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Print the table of one load; the keys."""
    print(
        f"{'policy':24}{'goodput/s: measured':>22}{'simulated':>11}{'p95 TTFT s: measured':>23}{'simulated':>11}"
    )
    policies = sorted(measured, key=lambda policy: -mean(measured[policy], "goodput"))
    for policy in policies:
        cells = [_cell(measured[policy], simulated[policy], name) for name in FIGURES]
        print(f"{policy:24}{cells[0]}{cells[1]}")
    keys: dict[str, float] = {}
    for name in FIGURES:
        real = {policy: [row[name] for row in rows] for policy, rows in measured.items()}
        keys |= agreement(name, real, {policy: simulated[policy][name] for policy in measured})
    return keys


def mean(rows: Sequence[Mapping[str, float]], name: str) -> float:
    return statistics.fmean(row[name] for row in rows)


def _cell(rows: Sequence[Mapping[str, float]], ours: Mapping[str, float], name: str) -> str:
    """The mean of the repeats, half of their range, and the simulated figure."""
    values = [row[name] for row in rows]
    half = (max(values) - min(values)) / 2
    return f"{statistics.fmean(values):13.2f} ±{half:6.2f} {ours[name]:11.2f}  "


def agreement(name: str, real: Mapping[str, Sequence[float]], ours: Mapping[str, float]) -> dict[str, float]:
    """Print how a figure's measured order (each repeat's, by policy) agrees with the simulated one; the keys."""
    means = {policy: statistics.fmean(values) for policy, values in real.items()}
    wrong = [(a, b) for a, b in combinations(real, 2) if (means[a] - means[b]) * (ours[a] - ours[b]) < 0]
    noise = 2 * standard_error(real)
    near = [(a, b) for a, b in wrong if abs(means[a] - means[b]) < noise]
    itself = [tau(one, other) for one, other in combinations(zip(*real.values(), strict=True), 2)]
    keys = {
        f"tau_{name}": tau([means[policy] for policy in real], [ours[policy] for policy in real]),
        f"self_tau_{name}": statistics.fmean(itself) if itself else math.nan,
        f"inversions_{name}": len(wrong),
        f"inversions_{name}_within_noise": len(near),
    }
    print(
        f"{name:>8}: tau {keys[f'tau_{name}']:.2f} (the measurement with itself {keys[f'self_tau_{name}']:.2f});"
        f" {len(wrong)} of {math.comb(len(real), 2)} pairs in the wrong order, {len(near)} of them within noise"
        f" ({noise:.3f})"
    )
    for a, b in wrong:
        if (a, b) not in near:
            print(
                f"          beyond noise: {a} {means[a]:.2f}, {b} {means[b]:.2f};"
                f" simulated {ours[a]:.2f}, {ours[b]:.2f}"
            )
    return keys


def tau(a: Sequence[float], b: Sequence[float]) -> float:
    return float(kendalltau(a, b).statistic)


def standard_error(real: Mapping[str, Sequence[float]]) -> float:
    """Of the difference of two policies' means, with the variance pooled over all; infinite without repeats."""
    repeats = min(map(len, real.values()))
    if repeats < 2:
        return math.inf
    return math.sqrt(2 * statistics.fmean(map(statistics.variance, real.values())) / repeats)
