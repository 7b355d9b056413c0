"""Winners on traces they have never seen, unchanged: five fresh ones of each kind, everybody's own scheduling time."""

from __future__ import annotations

from statistics import fmean

from cases import SHARDED, UNSHARDED, Case, Printed
from compare import compare, winner
from measure import Bench

from autopoiesis.simulator.intervals.generate import KINDS

HOME = {
    "volatile": "table2/volatile",
    "stable": "table2/stable",
    "elastic": "table3/stable",
    "spot": "fig7/SpotServe/MAF2",
    "phased": "fig7/DistServe/ShareGPT",
}
"""Whose winner is applied to which kind."""
SEEDS = range(5)


def fresh() -> dict[str, float | None]:
    """Mean and worst ratio of the best rival's total time to the evolved policy's; prints each."""
    print(
        f"\n== fresh traces, measured\n{'trace':20} {'best rival':>22} {'total s':>8} {'evolved':>8} {'ratio':>6}  evolved on"
    )
    ratios: list[float] = []
    for kind, generate in KINDS.items():
        with Bench(UNSHARDED if kind == "elastic" else SHARDED, repeats=1) as bench:
            for seed in SEEDS:
                ratio = _one(Case(HOME[kind], generate(seed), (), Printed()), bench)
                if ratio is not None:
                    ratios.append(ratio)
    if winner(HOME["volatile"]) is None or not ratios:
        print("no evolved policies yet: run evolve.py")
        return {"mean_ratio": None, "min_ratio": None}
    print(
        f"mean ratio {fmean(ratios):.3f}, worst {min(ratios):.3f}, {sum(r < 1 for r in ratios)} of {len(ratios)} lost"
    )
    return {"mean_ratio": fmean(ratios), "min_ratio": min(ratios)}


def _one(case: Case, bench: Bench) -> float | None:
    """A policy that breaks on a trace counts as a ratio of 0."""
    found = compare(case, bench, with_bound=False)
    rivals = {name: o.total_s for name, o in found.measured.items() if name != "evolved"}
    best = min(rivals, key=lambda name: rivals[name])
    own = found.measured.get("evolved")
    name = case.trace.name.removeprefix("fresh/")
    if found.evolved is None:
        print(f"{name:20} {best:>22} {rivals[best]:8.1f}")
        return None
    if own is None:
        print(f"{name:20} {best:>22} {rivals[best]:8.1f}   broke: {found.failed['evolved']}")
        return 0.0
    ratio = rivals[best] / own.total_s
    print(f"{name:20} {best:>22} {rivals[best]:8.1f} {own.total_s:8.1f} {ratio:6.3f}  {found.evolved.on}")
    return ratio
