"""Tables on the terminal, and the bars of Figure 7."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cases import Printed
from compare import Compared

from autopoiesis.simulator.intervals.world import Outcome

_HEAD = f"{'':24} {'N':>3} {'stale':>8} {'reconf':>8} {'serve':>8} {'total s':>8} {'tokens/s':>9}"


def table(found: Compared, note: str = "") -> None:
    """One case: ours beside the paper's, both accountings."""
    print(f"\n== {found.case.key}{f' ({note})' if note else ''}: {found.case.trace.tokens:,} tokens in {len(found.case.trace.steps)} steps")  # fmt: skip
    print(f"paper-charged\n{_HEAD}")
    printed = {rival.label: rival.printed for rival in found.case.rivals} | {"evolved": found.case.evolved}
    for name, outcome in found.charged.items():
        print(_row(name, outcome))
        print(_printed(printed[name]))
    if found.measured:
        print(f"measured\n{_HEAD}")
    for name, outcome in sorted(found.measured.items(), key=lambda item: item[1].total_s):
        print(_row(name, outcome))
    for name, why in found.failed.items():
        print(f"{name:24} failed: {why}")
    if found.bound is not None:
        print(
            f"{'lower bound':24} {found.bound.total_s:>38.1f}   (moves of {', '.join(found.bound.held)} charged)"
        )
    if found.evolved is None:
        print("no evolved policy yet: run evolve.py on this case")
    else:
        print(_verdict(found))


def _row(name: str, o: Outcome) -> str:
    return f"{name:24} {o.reschedules:3d} {o.stale_s:8.2f} {o.reconfigure_s:8.1f} {o.serve_s:8.1f} {o.total_s:8.1f} {o.tokens_per_s:9,.0f}"  # fmt: skip


def _printed(row: Printed) -> str:
    cells = (
        (row.reschedules, 3, "d"),
        (row.stale_s, 8, ".2f"),
        (row.reconfigure_s, 8, ".1f"),
        (row.serve_s, 8, ".1f"),
        (row.total_s, 8, ".1f"),
        (row.tokens_per_s, 9, ",.0f"),
    )
    shown = (
        f"{value:{width}{kind}}" if value is not None else "-".rjust(width) for value, width, kind in cells
    )
    return f"{'  the paper prints':24} {' '.join(shown)}"


def _verdict(found: Compared) -> str:
    assert found.evolved is not None, "asked only where there is one"
    parts = [f"evolved on {found.evolved.on}"]
    if found.gain is not None and found.cut is not None:
        parts.append(
            f"paper-charged {found.gain:+.1%} tokens/s, {found.cut:.1%} less time than the best rival"
        )
    if found.ratio is not None:
        parts.append(f"measured best rival / evolved {found.ratio:.3f}")
    if found.gap_closed is not None:
        parts.append(f"{found.gap_closed:.0%} of the gap to the bound closed")
    return "; ".join(parts)


def picture(cases: Sequence[Compared], path: Path) -> None:
    """Bars like Figure 7: each policy's windows in order, overhead hatched. Needs matplotlib."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, (len(cases) + 1) // 2, figsize=(12, 5), squeeze=False)
    for axis, found in zip(axes.flat, cases, strict=False):
        for row, outcome in enumerate(found.charged.values()):
            left = 0.0
            for number, interval in enumerate(outcome.intervals):
                overhead = interval.stale_s + interval.reconfigure_s
                axis.barh(
                    row, overhead, left=left, color="white", edgecolor="black", hatch="////", linewidth=0.3
                )
                axis.barh(row, interval.serve_s, left=left + overhead, color=f"C{number % 10}")
                left += overhead + interval.serve_s
            axis.text(left, row, f" {left:.0f} s", va="center", fontsize=8)
        axis.set_yticks(range(len(found.charged)), list(found.charged), fontsize=8)
        axis.set_title(found.case.key.removeprefix("fig7/"), fontsize=9)
    figure.supxlabel("seconds; hatched: scheduling and reconfiguration")
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    print(f"picture: {path}")
