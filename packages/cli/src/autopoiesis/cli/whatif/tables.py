"""The answer of `autopoiesis whatif` as tables and sentences for people, and as JSON."""

import math
from collections.abc import Iterator
from typing import Any

from rich.table import Table

from autopoiesis.contracts.slo import Objectives
from autopoiesis.simulator import Comparison, Standing
from autopoiesis.simulator.statistics import Gain

WIDE = 150
"""Columns of a terminal that can show all percentiles."""
MOST_GAIN = 10.0
"""An interval that goes beyond has no end worth a number: the gain is a ratio, and what it divides by may be nothing."""
LATENCIES = (("TTFT", "ttft_s", 1.0, "s"), ("TPOT", "tpot_s", 1e3, "ms"), ("E2E", "e2e_s", 1.0, "s"))


def at_one_load(comparison: Comparison, load: float, title: str, width: int) -> Table:
    """Policies ranked at one load."""
    wide = width >= WIDE
    percentiles = (50, 95, 99) if wide else (95,)
    grid = _grid(title)
    for heading in ("group", "goodput/s", "in SLO", "against the best"):
        grid.add_column(heading, justify="right")
    for name, _, _, unit in LATENCIES:
        grid.add_column(f"{name} {'/'.join(f'p{p}' for p in percentiles)}, {unit}", justify="right")
    grid.add_column("rejected", justify="right")
    grid.add_column("cost/1k in SLO", justify="right")
    for standing in comparison.at(load).ranking():
        figures = standing.figures
        latencies = [
            " / ".join(number(figures[f"{key}_p{p}"] * scale) for p in percentiles)
            for _, key, scale, _ in LATENCIES
        ]
        grid.add_row(
            str(standing.rank),
            standing.policy,
            "-" if standing.group is None else str(standing.group),
            number(figures["goodput"]),
            f"{figures['attainment']:.1%}",
            against(standing),
            *latencies,
            f"{figures['rejected']:.1%}",
            number(cost_per_thousand(figures)),
        )
    return grid


def over_all_loads(comparison: Comparison) -> Table:
    """Policies ranked over all loads together, with the goodput at each."""
    grid = _grid("over all loads")
    grid.add_column("group", justify="right")
    grid.add_column("against the best", justify="right")
    for load in comparison.loads:
        grid.add_column(f"goodput/s at {load:g}", justify="right")
    at = {load: {s.policy: s for s in comparison.at(load).ranking()} for load in comparison.loads}
    for standing in comparison.ranking():
        goodputs = [number(at[load][standing.policy].figures["goodput"]) for load in comparison.loads]
        group = "-" if standing.group is None else str(standing.group)
        grid.add_row(str(standing.rank), standing.policy, group, against(standing), *goodputs)
    return grid


def notes(comparison: Comparison) -> Iterator[str]:
    """What the numbers mean, and what to distrust."""
    standings = comparison.ranking()
    best = [standing.policy for standing in standings if standing.group == 1]
    if standings[0].group is None:
        yield f"{comparison.span_s:.0f} s of traffic are too short for intervals: which differences are noise is not known."
    elif len(best) == len(standings) > 1:
        yield "No difference in goodput is beyond noise."
    elif len(standings) > 1:
        yield f"Within noise of the best: {', '.join(best)}."
    if standings[0].group is not None and len(standings) > 1:
        yield (
            f"Policies of one group do not differ beyond noise: {comparison.confidence:.0%} for all comparisons together, "
            f"paired over {comparison.blocks} blocks of {comparison.block_s:.0f} s."
        )
        long = comparison.longer_than_blocks()
        if long:
            yield (
                f"Requests last longer than a block (p95 up to {max(long.values()):.0f} s) under {', '.join(long)}: their "
                "intervals are too narrow. Use a longer trace, or less load."
            )
    if min(s.figures["attainment"] for s in standings) > 0.999:
        yield "Every policy meets nearly every objective: a smaller fleet, more --load or tighter --slo would tell them apart."
    for policy in comparison.policies:
        faults: dict[str, int] = {}
        for cell in comparison.of(policy):
            for fault, count in cell.faults.items():
                faults[fault] = faults.get(fault, 0) + count
        if faults:
            told = ", ".join(f"{count} x {fault}" for fault, count in faults.items())
            yield f"{policy} failed and the fallback decided: {told}."


def document(comparison: Comparison, facts: dict[str, Any]) -> dict[str, Any]:
    """The same for scripts. Latencies are seconds, shares between 0 and 1, NaN is null."""
    rows = [{key: _plain(value) for key, value in row.items()} for row in comparison.rows()]
    overall = [
        {"rank": s.rank, "policy": s.policy, "group": s.group, **_interval(s.against_best)}
        for s in comparison.ranking()
    ]
    return {
        **facts,
        "confidence": comparison.confidence,
        "blocks": comparison.blocks,
        "block_s": comparison.block_s,
        "overall": overall,
        "rows": rows,
        "notes": list(notes(comparison)),
    }


def objectives_in_words(objectives: Objectives, classes: tuple[str, ...]) -> str:
    """Of the classes that the trace has."""
    parts = []
    for name in classes:
        goal = objectives.of(name)
        limits = [
            f"{what} {limit:g} s"
            for what, limit in (("TTFT", goal.ttft_s), ("TPOT", goal.tpot_s))
            if limit is not None
        ]
        parts.append(f"{name}: {', '.join(limits) or 'none'}")
    return "; ".join(parts)


def against(standing: Standing) -> str:
    gain = standing.against_best
    if standing.rank == 1 or gain is None:
        return ""
    high = f"{gain.high * 100:+.1f}" if gain.high < MOST_GAIN else "any"
    return f"{gain.gain * 100:+.1f}% ({gain.low * 100:+.1f} to {high})"


def number(value: float) -> str:
    """Three significant digits; `-` for what does not exist."""
    if math.isnan(value):
        return "-"
    if value >= 99.95 or not value:
        return f"{value:.0f}"
    return f"{value:#.3g}"


def cost_per_thousand(figures: Any) -> float:
    """Money for a thousand requests within their objectives; NaN where none was."""
    met = figures["attainment"] * figures["arrivals"]
    return figures["cost"] / met * 1000 if met else math.nan


def _interval(gain: Gain | None) -> dict[str, float | None]:
    if gain is None:
        return {"gain": None, "gain_low": None, "gain_high": None}
    return {"gain": gain.gain, "gain_low": gain.low, "gain_high": gain.high}


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _grid(title: str) -> Table:
    grid = Table(
        title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 1)
    )
    grid.add_column("", justify="right")
    grid.add_column("policy")
    return grid
