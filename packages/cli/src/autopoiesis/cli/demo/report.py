"""What the demo prints, and the same as JSON."""

import difflib
import math
from typing import Any

from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table

from autopoiesis.cli.demo.run import Outcome, Version
from autopoiesis.cli.load import Latencies, LoadResult
from autopoiesis.cli.load.table import seconds

SHORT = 12


def gain(new: LoadResult, old: LoadResult) -> float:
    """Relative goodput gain; infinite where the old one met nothing."""
    before, after = old.overall.goodput_rps, new.overall.goodput_rps
    if before == 0:
        return math.inf if after > 0 else 0.0
    return after / before - 1


def show(outcome: Outcome, console: Console) -> None:
    if outcome.version is None or outcome.after is None or outcome.best is None:
        console.print("\n[bold]Nothing was promoted.[/bold] The incumbent on C:")
        console.print(_measurements([("incumbent", outcome.incumbent.title, outcome.before)]))
        console.print(_account(outcome))
        return
    version = outcome.version
    console.print(_versions(outcome.incumbent, version, outcome.epoch))
    console.print(Syntax(_diff(outcome.incumbent, version), "diff", background_color="default"))
    rows = [
        ("incumbent", outcome.incumbent.title, outcome.before),
        ("best shipped", outcome.best_name, outcome.best),
        ("promoted", f"{version.hash[:SHORT]} ({version.origin})", outcome.after),
    ]
    console.print(_measurements(rows))
    if outcome.judgement is not None:
        judged = outcome.judgement
        console.print(
            f"expected from sealed traffic: {judged.gain:+.1%} goodput over the incumbent "
            f"({judged.gain_low:+.1%} to {judged.gain_high:+.1%} at {judged.confidence:.0%})"
        )
    console.print(
        f"[bold]measured on C: {gain(outcome.after, outcome.before):+.1%} goodput over the incumbent, "
        f"{gain(outcome.after, outcome.best):+.1%} over the best shipped policy ({outcome.best_name})[/bold]"
    )
    console.print(_account(outcome))


def _versions(incumbent: Version, version: Version, epoch: int) -> Table:
    grid = Table(title="\nversions", title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in ("epoch", "hash", "origin", "idea"):
        grid.add_column(column)
    grid.add_row("0", incumbent.hash[:SHORT], incumbent.origin, incumbent.title)
    grid.add_row(str(epoch), version.hash[:SHORT], version.origin, version.title)
    return grid


def _diff(before: Version, after: Version) -> str:
    lines = difflib.unified_diff(
        before.source.splitlines(),
        after.source.splitlines(),
        before.title,
        after.hash[:SHORT],
        lineterm="",
        n=1,
    )
    return "\n".join(lines)


def _measurements(rows: list[tuple[str, str, LoadResult]]) -> Table:
    grid = Table(
        title="\nstretch C, at the client", title_justify="left", title_style="bold", box=None, pad_edge=False
    )
    grid.add_column("")
    grid.add_column("policy")
    for column in (
        "goodput/s",
        "met",
        "TTFT p50/p95/p99",
        "E2E p50/p95/p99",
        "tokens/s",
        "sent",
        "rejected",
        "failed",
    ):
        grid.add_column(column, justify="right")
    for role, name, result in rows:
        whole = result.overall
        met = ", ".join(f"{klass} {s.attainment:.0%}" for klass, s in result.classes.items())
        grid.add_row(
            role,
            name,
            f"{whole.goodput_rps:.2f}",
            met,
            _triple(whole.ttft),
            _triple(whole.e2e),
            f"{whole.output_tokens_per_s:.0f}",
            str(len(result.records)),
            str(result.rejected),
            str(result.failed),
        )
    return grid


def _triple(latencies: Latencies) -> str:
    return " / ".join(map(seconds, (latencies.p50, latencies.p95, latencies.p99)))


def _account(outcome: Outcome) -> str:
    runs = [
        run for run in (*outcome.learning, outcome.before, outcome.best, outcome.after) if run is not None
    ]
    sent = sum(len(run.records) for run in runs)
    rejected = sum(run.rejected for run in runs)
    answered = sent - rejected - outcome.failed
    late = max(run.lateness.p99 for run in runs)
    errors = "; ".join(f"{count} x {error}" for run in runs for error, count in run.errors().items())
    account = f"{sent} requests sent, {answered} answered, {rejected} rejected, {outcome.failed} failed"
    return f"{account}; the generator was at most {seconds(late)} late (p99)" + (
        f"\n{errors}" if errors else ""
    )


def to_dict(outcome: Outcome) -> dict[str, Any]:
    """The keys that scripts read; gains are fractions of goodput."""
    scenario = outcome.scenario
    result: dict[str, Any] = {
        "promoted": outcome.version is not None,
        "failed": outcome.failed,
        "before": outcome.before.to_dict(),
        "after": outcome.after.to_dict() if outcome.after else None,
        "promoted_policy": outcome.version.hash if outcome.version else None,
        "origin": outcome.version.origin if outcome.version else None,
        "best_baseline": {"name": outcome.best_name, **outcome.best.to_dict()} if outcome.best else None,
        "incumbent": outcome.incumbent.title,
        "load": scenario.load,
        "capacity_rps": scenario.capacity_rps,
        "fleet": scenario.fleet,
        "loop_s": outcome.loop_s,
    }
    if outcome.after and outcome.best:
        result["gain_over_incumbent"] = gain(outcome.after, outcome.before)
        result["gain_over_best_baseline"] = gain(outcome.after, outcome.best)
    if outcome.version:
        result["source"] = outcome.version.source
    return result
