"""Did attainment fall after a promotion, at the same load?

Requests are counted in short bins of time. Bins before and after are matched by how much was asked of the fleet (strata of
offered tokens per second) and compared within a stratum only, weighted as Cochran and Mantel-Haenszel do. Requests of one
bin share their fate, so the variance is multiplied by the overdispersion seen between bins (Pearson's chi-squared per
degree of freedom), never less than one.
"""

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import NormalDist

STRATUM_RATIO = 1.3
"""Loads within this ratio of each other are taken as equal."""


@dataclass(slots=True)
class Bin:
    """One short stretch of time under one policy."""

    requests: int = 0
    met: int = 0
    tokens: int = 0
    """Prompt and output tokens of its requests: the load."""


@dataclass(frozen=True, slots=True)
class Change:
    """Attainment after minus attainment before, at matched load."""

    difference: float
    p_value: float
    """One-sided, of no loss."""
    before: int
    after: int
    """Requests in matched strata on either side."""


def change(before: Iterable[Bin], after: Iterable[Bin]) -> Change:
    """Compare two sets of bins; without a common stratum nothing is known and the p-value is 1."""
    strata = _matched(_strata(before), _strata(after))
    weight = total = variance = chi2 = 0.0
    freedom = 0
    for old, new in strata:
        n0, x0 = _sums(old)
        n1, x1 = _sums(new)
        pooled = (x0 + x1) / (n0 + n1)
        w = n0 * n1 / (n0 + n1)
        weight += w
        total += w * (x1 / n1 - x0 / n0)
        variance += w * w * pooled * (1 - pooled) * (1 / n0 + 1 / n1)
        for side, share in ((old, x0 / n0), (new, x1 / n1)):
            chi2 += _chi2(side, share)
            freedom += len(side) - 1
    counts = [sum(_sums(pair[side])[0] for pair in strata) for side in (0, 1)]
    if not weight:
        return Change(0.0, 1.0, 0, 0)
    overdispersion = max(1.0, chi2 / freedom) if freedom else 1.0
    deviation = math.sqrt(variance * overdispersion)
    z = total / deviation if deviation else math.copysign(math.inf, total) if total else 0.0
    return Change(
        total / weight, NormalDist().cdf(z) if math.isfinite(z) else float(z > 0), counts[0], counts[1]
    )


def _strata(bins: Iterable[Bin]) -> dict[int, list[Bin]]:
    strata: defaultdict[int, list[Bin]] = defaultdict(list)
    for item in bins:
        if item.requests:
            strata[round(math.log(max(item.tokens, 1), STRATUM_RATIO))].append(item)
    return strata


def _matched(before: dict[int, list[Bin]], after: dict[int, list[Bin]]) -> list[tuple[list[Bin], list[Bin]]]:
    return [(before[key], after[key]) for key in sorted(before.keys() & after.keys())]


def _sums(bins: list[Bin]) -> tuple[int, int]:
    return sum(item.requests for item in bins), sum(item.met for item in bins)


def _chi2(bins: list[Bin], share: float) -> float:
    spread = share * (1 - share)
    if not spread:
        return 0.0
    return sum((item.met - item.requests * share) ** 2 / (item.requests * spread) for item in bins)
