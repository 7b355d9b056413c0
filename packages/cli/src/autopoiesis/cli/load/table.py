"""A load run as tables for people."""

import math
from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from autopoiesis.cli.load.result import LoadResult, Summary

ERRORS_SHOWN = 5


def table(result: LoadResult, title: str = "") -> RenderableType:
    """Goodput and latencies per class and for all, then what failed and how punctual the generator was; 80 columns."""
    heading = title or f"{result.model} at {result.url}"
    return Group(_goodput(result, heading), _latencies(result), *_notes(result))


def seconds(value: float) -> str:
    """A duration for people: `-` for NaN, milliseconds below one second."""
    if math.isnan(value):
        return "-"
    return f"{value * 1e3:.0f} ms" if value < 0.9995 else f"{value:.2f} s"


def _goodput(result: LoadResult, title: str) -> Table:
    grid = Table(title=title, title_justify="left")
    grid.add_column("class")
    for heading in ("objective", "requests", "met", "goodput/s", "tokens/s"):
        grid.add_column(heading, justify="right")
    for summary in _rows(result):
        grid.add_row(
            summary.klass,
            _objective(result, summary),
            str(summary.requests),
            "-" if math.isnan(summary.attainment) else f"{summary.attainment:.1%}",
            f"{summary.goodput_rps:.2f}",
            f"{summary.output_tokens_per_s:.0f}",
        )
    return grid


def _latencies(result: LoadResult) -> Table:
    grid = Table()
    grid.add_column("class")
    for heading in ("latency", "p50", "p95", "p99", "mean"):
        grid.add_column(heading, justify="right")
    for summary in _rows(result):
        name = summary.klass
        for kind, seen in (("TTFT", summary.ttft), ("TPOT", summary.tpot), ("E2E", summary.e2e)):
            grid.add_row(name, kind, *map(seconds, (seen.p50, seen.p95, seen.p99, seen.mean)))
            name = ""
    return grid


def _rows(result: LoadResult) -> Iterator[Summary]:
    yield from result.classes.values()
    if len(result.classes) != 1:
        yield result.overall


def _objective(result: LoadResult, summary: Summary) -> str:
    if summary is result.overall:
        return ""
    slo = result.objectives.of(summary.klass)
    limits = (("TTFT", slo.ttft_s), ("TPOT", slo.tpot_s))
    return ", ".join(f"{name} {seconds(limit)}" for name, limit in limits if limit is not None) or "none"


def _notes(result: LoadResult) -> list[Text]:
    late = result.lateness
    warm_up = len(result.records) - len(result.scored)
    notes = [
        f"{len(result.records)} sent, {warm_up} of them in warm-up and not scored; {result.rejected} rejected, {result.failed} failed",
        f"sent late by {seconds(late.p50)} in the median, {seconds(late.p99)} at p99",
    ]
    errors = result.errors()
    notes += [f"{count} x {error}" for error, count in list(errors.items())[:ERRORS_SHOWN]]
    if len(errors) > ERRORS_SHOWN:
        notes.append(f"and {len(errors) - ERRORS_SHOWN} other kinds of error")
    return [Text(note) for note in notes]
