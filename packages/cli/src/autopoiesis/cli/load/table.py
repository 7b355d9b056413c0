"""A load run as a table for people."""

import math

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from autopoiesis.cli.load.result import Latencies, LoadResult, Summary


def table(result: LoadResult, title: str = "") -> RenderableType:
    """One line per class and one for all, then what failed and how punctual the generator was."""
    grid = Table(title=title or f"{result.model} at {result.url}", title_justify="left")
    grid.add_column("class")
    for heading in (
        "SLO",
        "requests",
        "met",
        "goodput/s",
        "TTFT p50/p95/p99",
        "TPOT p50/p95/p99",
        "E2E p50/p95/p99",
    ):
        grid.add_column(heading, justify="right")
    grid.add_column("tokens/s", justify="right")
    for name, summary in result.classes.items():
        grid.add_row(*_row(summary, _objective(result, name)))
    if len(result.classes) != 1:
        grid.add_section()
        grid.add_row(*_row(result.overall, ""))
    return Group(grid, *_notes(result))


def _row(summary: Summary, objective: str) -> tuple[str, ...]:
    return (
        summary.klass or "(none)",
        objective,
        str(summary.requests),
        "-" if math.isnan(summary.attainment) else f"{summary.attainment:.1%}",
        f"{summary.goodput_rps:.2f}",
        _triple(summary.ttft),
        _triple(summary.tpot),
        _triple(summary.e2e),
        f"{summary.output_tokens_per_s:.0f}",
    )


def _objective(result: LoadResult, klass: str) -> str:
    slo = result.objectives.of(klass)
    parts = [
        f"{name} {seconds(limit)}"
        for name, limit in (("TTFT", slo.ttft_s), ("TPOT", slo.tpot_s))
        if limit is not None
    ]
    return ", ".join(parts) or "none"


def _notes(result: LoadResult) -> list[Text]:
    late = result.lateness
    warm_up = len(result.records) - len(result.scored)
    counts = f"{len(result.records)} sent ({warm_up} of them warm-up, not scored), {result.rejected} rejected, {result.failed} failed"
    notes = [f"{counts}; sent late by {seconds(late.p50)} in the median, {seconds(late.p99)} at p99"]
    notes += [f"{count} x {error}" for error, count in list(result.errors().items())[:5]]
    return [Text(note) for note in notes]


def _triple(latencies: Latencies) -> str:
    return " / ".join(seconds(value) for value in (latencies.p50, latencies.p95, latencies.p99))


def seconds(value: float) -> str:
    """A duration for people: `-` for NaN, milliseconds below one second."""
    if math.isnan(value):
        return "-"
    return f"{value * 1e3:.0f} ms" if value < 0.9995 else f"{value:.2f} s"
