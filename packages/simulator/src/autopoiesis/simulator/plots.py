"""Pictures of comparisons, runs and fleets. Needs the extra `plots` (matplotlib).

Every function returns a matplotlib `Figure`, to be shown in a notebook or saved by `figure.savefig(path)`. Colours are those of
Okabe and Ito (2008), which colour-blind readers can tell apart; where there are more policies than colours, the rest is grey.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from autopoiesis.simulator.comparison import SHARES
from autopoiesis.simulator.extras import figure_class
from autopoiesis.simulator.ranking import Comparison, Standing
from autopoiesis.simulator.report import Column, Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
DASHES: Final = ("-", "--", "-.", (0, (5, 1.5, 1, 1.5, 1, 1.5)), "-", "--", "-.")
MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X")
GREY: Final = "#B8B8B8"
INK: Final = "#333333"
STATES: Final[dict[str, dict[str, Any]]] = {
    "loading": {"facecolor": "white", "edgecolor": COLOURS[5], "hatch": "////", "linewidth": 0.8},
    "ready": {"facecolor": COLOURS[0]},
    "draining": {"facecolor": COLOURS[4]},
}
"""How a timeline draws a replica's states; those that hold no GPU are blank."""
ARMS: Final = {"seed": "seeds", "evolved": "evolved", "control": "independent drafts"}
"""Where a candidate of a search comes from."""
POINTS: Final = 600
"""Places in time at which a run is drawn."""


@dataclass(frozen=True, slots=True)
class _Look:
    colour: str
    dash: Any
    marker: str
    named: bool

    @property
    def line(self) -> dict[str, Any]:
        if not self.named:
            return {"color": GREY, "linewidth": 0.9, "zorder": 1}
        return {"color": self.colour, "linestyle": self.dash, "linewidth": 1.7, "zorder": 3}


def overview(comparison: Comparison, *, highlight: Sequence[str] = (), slo_s: float | None = None) -> Figure:
    """The picture of `autopoiesis whatif`: differences to the best with their intervals, goodput over load, TTFT.

    `highlight` are policies to colour besides the best ones, `slo_s` the first-token objective to mark, seconds.
    """
    several = len(comparison.loads) > 1
    count = len(comparison.policies)
    figure: Figure = figure_class()(
        figsize=(16.5 if several else 12.0, max(4.2, 1.9 + 0.24 * count)), layout="constrained"
    )
    axes = list(figure.subplots(1, 3 if several else 2, width_ratios=[1.15, *([1] * (1 + several))]))
    looks = _looks(comparison, highlight)
    _differences(axes[0], comparison, looks)
    if several:
        _goodput(axes[1], comparison, looks)
    load = comparison.loads[len(comparison.loads) // 2]
    _ttft(axes[-1], comparison.at(load), looks, slo_s)
    axes[-1].set_title(
        f"Time to first token at load {load:g}" if several else "Time to first token", loc="left"
    )
    _legend(axes[-1], looks)
    return figure


def goodput_over_load(comparison: Comparison, *, highlight: Sequence[str] = ()) -> Figure:
    """Requests per second within objectives over offered load."""
    figure, axis = _single(7.5, 4.4)
    looks = _looks(comparison, highlight)
    _goodput(axis, comparison, looks)
    _legend(axis, looks)
    return figure


def ttft_cdf(comparison: Comparison, *, highlight: Sequence[str] = (), slo_s: float | None = None) -> Figure:
    """Share of all arrivals that had their first token by then; a curve that stays below 1 left some without any."""
    figure, axis = _single(7.5, 4.4)
    looks = _looks(comparison, highlight)
    _ttft(axis, comparison, looks, slo_s)
    _legend(axis, looks)
    return figure


def in_system(run: Run) -> Figure:
    """Requests over time by where they are: at the router, on a replica without a first token, decoding."""
    figure, axis = _single(8.5, 3.8)
    time = np.linspace(
        float(run.arrival_s.min(initial=0.0)), float(np.nanmax(run.ended_s, initial=1.0)), POINTS
    )
    held, waiting, decoding = where_requests_are(run, time)
    scale, unit = _time_unit(time[-1] - time[0])
    names = ("decoding", "on a replica, no token yet", "at the router")
    axis.stackplot(
        time / scale, decoding, waiting, held, labels=names, colors=(COLOURS[4], COLOURS[5], COLOURS[1]), linewidth=0
    )  # fmt: skip
    axis.set(
        xlabel=f"time ({unit})", ylabel="requests", xlim=(time[0] / scale, time[-1] / scale), ylim=(0, None)
    )
    axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, reverse=True)
    return figure


def where_requests_are(run: Run, time: Column) -> tuple[Column, Column, Column]:
    """Requests at the router, on a replica without a token, and decoding, at each `time` (s). A retry's detours do not show."""
    sent, first, end = run.arrival_s + run.queue_wait_s, run.arrival_s + run.ttft_s, run.ended_s
    return (
        _present(time, run.arrival_s, np.fmin(sent, end)),
        _present(time, sent, np.fmin(first, end)),
        _present(time, first, end),
    )


def utilisation(run: Run) -> Figure:
    """Share of its time in the fleet that each replica's engine was computing."""
    totals = run.replicas
    figure, axis = _single(7.0, 1.3 + 0.28 * len(totals), lines="x")
    types = list(dict.fromkeys(replica.gpu for replica in totals))
    colour = dict(zip(types, cycle(COLOURS), strict=False))
    places = np.arange(len(totals))
    busy = [100 * r.busy_s / r.present_s if r.present_s else 0.0 for r in totals]
    axis.barh(places, busy, color=[colour[r.gpu] for r in totals], height=0.7)
    for place, share in zip(places, busy, strict=True):
        axis.annotate(
            f"{share:.0f}",
            (share, place),
            (3, 0),
            textcoords="offset points",
            va="center",
            color=INK,
            fontsize=8,
        )
    axis.set_yticks(places, [replica.name for replica in totals])
    axis.set(xlabel="time computing (%)", xlim=(0, 108))
    axis.invert_yaxis()
    return figure


def fleet_timeline(run: Run) -> Figure:
    """When each replica loaded, served, drained and was gone. Replicas are in order of joining, hatched where loading."""
    totals = run.replicas
    figure, axis = _single(9.0, 1.5 + 0.24 * len(totals), lines="x")
    began = min(replica.history[0][0] for replica in totals)
    ended = float(np.nanmax(run.ended_s, initial=began + 1.0))
    scale, unit = _time_unit(ended - began)
    for place, replica in enumerate(totals):
        until = [*(since for since, _ in replica.history[1:]), max(ended, replica.history[-1][0])]
        for (since, state), end in zip(replica.history, until, strict=True):
            look = STATES.get(state)
            if look is not None:
                axis.barh(place, (end - since) / scale, left=since / scale, height=0.7, **look)
        if replica.history[-1][1] == "failed":
            axis.plot(replica.history[-1][0] / scale, place, marker="x", color=INK, markersize=6, zorder=4)
    seen = {state for replica in totals for _, state in replica.history}
    for state in (state for state in STATES if state in seen):
        axis.fill([], [], label=state, **STATES[state])
    if "failed" in seen:
        axis.plot([], [], "x", color=INK, label="failed")
    axis.set_yticks(range(len(totals)), [replica.name for replica in totals])
    axis.set(xlabel=f"time ({unit})", xlim=(began / scale, ended / scale))
    axis.invert_yaxis()
    axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    return figure


def search(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Fitness over the candidates of a search: `Found.rows()` of the synthesizer, or the rows of its candidates.csv as numbers.

    A point for each that came to the last stage, by how it came about; the line is the best so far, 1 the policy to beat.
    """
    figure, axis = _single(8.0, 4.2)
    final = [row for row in rows if row["final"]]
    for (arm, label), colour, marker in zip(ARMS.items(), COLOURS, MARKERS, strict=False):
        points = [row for row in final if row["arm"] == arm]
        if points:
            axis.scatter([r["number"] for r in points], [r["fitness"] for r in points], s=16, color=colour, marker=marker, label=label, zorder=3)  # fmt: skip
    axis.step([row["number"] for row in rows], [row["best"] for row in rows], where="post", color=INK, linewidth=1.4, label="best so far")  # fmt: skip
    axis.axhline(1.0, color=INK, linewidth=0.8, linestyle=":")
    if final:
        best = max(row["fitness"] for row in final)
        axis.set_ylim(max(min(row["fitness"] for row in final), 1.0 - 1.5 * max(best - 1.0, 0.1)), None)
    axis.set(xlabel="candidates", ylabel="fitness (1: the policy to beat)")
    axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    return figure


def _differences(axis: Axes, comparison: Comparison, looks: dict[str, _Look]) -> None:
    """Requests within objectives against the best, with simultaneous intervals; those of the best's group are filled."""
    standings = comparison.ranking()
    for place, standing in enumerate(standings):
        _difference(axis, place, standing, looks[standing.policy])
    axis.axvline(0.0, color=INK, linewidth=0.8, zorder=0)
    axis.set_yticks(range(len(standings)), [standing.policy for standing in standings])
    axis.invert_yaxis()
    axis.set_xlabel("goodput against the best (%)")
    known = standings[0].group is not None
    axis.set_title(
        f"Filled: within noise of the best ({comparison.confidence:.0%})"
        if known
        else "Too short for intervals",
        loc="left",
    )
    _clean(axis, "x")


def _difference(axis: Axes, place: int, standing: Standing, look: _Look) -> None:
    colour = look.colour if look.named else "#888888"
    gain = standing.against_best
    if gain is None:
        axis.plot(0.0, place, marker="|", color=colour)
        return
    reach = [[100 * (gain.gain - gain.low)], [100 * (gain.high - gain.gain)]]
    axis.errorbar(
        100 * gain.gain, place, xerr=reach, fmt="o", markersize=6, color=colour, elinewidth=1.5, capsize=2.5,
        markerfacecolor=colour if standing.group == 1 else "white",
    )  # fmt: skip


def _goodput(axis: Axes, comparison: Comparison, looks: dict[str, _Look]) -> None:
    loads = comparison.loads
    offered = [_mean_of(comparison, load, None) for load in loads]
    axis.plot(loads, offered, color=INK, linewidth=0.8, linestyle=":", label="_", zorder=0)
    axis.annotate(
        "all arrivals",
        (loads[-1], offered[-1]),
        (-4, 0),
        textcoords="offset points",
        ha="right",
        color=INK,
        fontsize=8,
    )
    for name, look in looks.items():
        values = [_mean_of(comparison, load, name) for load in loads]
        marker: dict[str, Any] = {"marker": look.marker, "markersize": 4.5} if look.named else {}
        axis.plot(loads, values, label=name if look.named else "_", **look.line, **marker)
    axis.set(xlabel="load", ylabel="goodput (requests/s within objectives)", ylim=(0, None))
    axis.set_title("Goodput over load", loc="left")
    _clean(axis)


def _mean_of(comparison: Comparison, load: float, policy: str | None) -> float:
    """Goodput of a policy at a load; arrivals per second without one."""
    cells = [c for c in comparison.cells if c.load == load and policy in (None, c.policy)]
    if policy is None:
        return float(np.mean([c.figures["arrivals"] for c in cells])) / comparison.span_s
    return float(np.mean([c.figures["goodput"] for c in cells]))


def _ttft(axis: Axes, comparison: Comparison, looks: dict[str, _Look], slo_s: float | None) -> None:
    low = np.inf
    for name, look in looks.items():
        seconds = np.mean([cell.ttft_s for cell in comparison.of(name)], axis=0)
        seen = np.isfinite(seconds)
        axis.plot(seconds[seen], 100 * SHARES[seen], label=name if look.named else "_", **look.line)
        low = min(low, float(seconds[max(1, len(SHARES) // 100)]))
    if slo_s is not None:
        axis.axvline(slo_s, color=INK, linewidth=0.8, linestyle=":")
        axis.annotate(
            f"objective {slo_s:g} s", (slo_s, 0.0), (3, 4), textcoords="offset points", color=INK, fontsize=8
        )
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter("{x:g}")
    if np.isfinite(low):
        axis.set_xlim(left=low)
    axis.set(xlabel="time to first token (s)", ylabel="arrivals (%)", ylim=(0, 101))
    _clean(axis)


def _looks(comparison: Comparison, highlight: Sequence[str]) -> dict[str, _Look]:
    """By policy, best first. Colour goes to `highlight` and then to the best, as far as there are colours."""
    order = [standing.policy for standing in comparison.ranking()]
    named = [
        *(name for name in highlight if name in order),
        *(name for name in order if name not in highlight),
    ][: len(COLOURS)]
    styles = zip(COLOURS, DASHES, MARKERS, strict=True)
    of = dict(zip([name for name in order if name in named], styles, strict=False))
    return {name: _Look(*of[name], True) if name in of else _Look(GREY, "-", "", False) for name in order}


def _legend(axis: Axes, looks: dict[str, _Look]) -> None:
    others = sum(not look.named for look in looks.values())
    if others:
        axis.plot([], [], color=GREY, linewidth=0.9, label=f"{others} others")
    axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, handlelength=3.2)


def _present(time: Column, start: Column, end: Column) -> Column:
    """How many are between start and end at each time; those that never start are nowhere."""
    started = ~np.isnan(start)
    left = np.sort(np.where(np.isnan(end), np.inf, end)[started])
    return np.searchsorted(np.sort(start[started]), time, "right") - np.searchsorted(left, time, "right")


def _time_unit(span_s: float) -> tuple[float, str]:
    for scale, unit in ((3600.0, "h"), (60.0, "min")):
        if span_s > 3 * scale:
            return scale, unit
    return 1.0, "s"


def _single(width: float, height: float, lines: Literal["x", "both"] = "both") -> tuple[Figure, Axes]:
    figure: Figure = figure_class()(figsize=(width, height), layout="constrained")
    axis: Axes = figure.subplots()
    _clean(axis, lines)
    return figure, axis


def _clean(axis: Axes, lines: Literal["x", "both"] = "both") -> None:
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    axis.grid(visible=True, color="#E6E6E6", linewidth=0.7, axis=lines)
    axis.set_axisbelow(True)
