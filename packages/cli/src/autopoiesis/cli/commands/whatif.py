"""`autopoiesis whatif`: which policy would serve this traffic best on that fleet. Needs no services."""

import os
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from autopoiesis.cli.context import COMMON, Common
from autopoiesis.cli.output import CommandError, console, print_json, progress
from autopoiesis.cli.whatif import asked, options, tables
from autopoiesis.runtime.settings import SloSettings
from autopoiesis.simulator import Comparison, Fleet, Trace, compare
from autopoiesis.simulator.api import capacity, objectives
from autopoiesis.simulator.extras import figure_class


def whatif(
    *,
    trace: options.TraceFile,
    fleet: Annotated[
        str | None, Parameter(help="Replicas, for instance '2xH100 + 4xL40S' or '2xH100/tp2'.")
    ] = None,
    policy: Annotated[
        list[str] | None, Parameter(help="File of a policy, or a shipped name; may repeat.", negative=())
    ] = None,
    shipped: Annotated[
        asked.Shipped, Parameter(help="Shipped policies to compare with: all, the usual rivals, or none.")
    ] = "all",
    load: options.Loads = None,
    load_unit: options.Unit = "trace",
    slo: options.Slo = None,
    seeds: Annotated[int, Parameter(help="How many seeds; each draws clients and load scaling anew.")] = 1,
    seconds: options.Seconds = None,
    warmup: Annotated[float, Parameter(help="Seconds at the start that are simulated but not scored.")] = 0.0,
    failed: options.Failed = "drop",
    model: Annotated[
        str, Parameter(help="Model that the fleet serves: a name, or its config.json.")
    ] = "Llama-3.1-8B",
    routers: options.Routers = 1,
    spot: Annotated[
        str | None, Parameter(help="Replicas that come and go, for instance '8xL4'; with --membership.")
    ] = None,
    membership: Annotated[
        Path | None, Parameter(help="Spot trace that says when their nodes come and go.")
    ] = None,
    notice: Annotated[float, Parameter(help="Seconds before a spot node goes that it is told.")] = 0.0,
    processes: Annotated[int | None, Parameter(help="Default: one per core.")] = None,
    plot: Annotated[Path | None, Parameter(help="Also draw a picture: .png, .svg or .pdf.")] = None,
    common: Common = COMMON,
) -> None:
    """Replay recorded traffic under every policy, rank them, and say which differences are within noise."""
    if plot is not None:
        figure_class()  # tells at once where the library is missing
    chosen = asked.policies(policy or (), shipped)
    loads = asked.loads(load or ["1"])
    if seeds < 1:
        raise CommandError(f"--seeds {seeds}: at least 1")
    traffic = asked.traffic(trace, failed, seconds)
    place = asked.fleet(fleet, spot, membership, notice_s=notice, span_s=traffic.duration, model=model)
    goals = objectives(asked.goals(slo or ()) or common.settings()[SloSettings].objectives, traffic.classes)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bar(*columns, console=progress, transient=True) as bar:
        task = bar.add_task(f"replaying {len(traffic)} requests")
        try:
            result = compare(
                chosen,
                traffic,
                place,
                goals,
                loads,
                range(seeds),
                load_unit=load_unit,
                warmup_s=warmup,
                routers=routers,
                processes=processes or os.cpu_count() or 1,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
        except ValueError as error:
            raise CommandError(str(error)) from error
        except BrokenProcessPool as error:
            raise CommandError(
                "a process ended early, most likely for want of memory: use fewer --processes, or less traffic (--seconds)"
            ) from error
    facts = {
        "trace": str(trace),
        "requests": len(traffic),
        "dropped": traffic.dropped,
        "recorded_rps": traffic.rate,
        "capacity_rps": capacity(place, traffic) if place.replicas else None,
        "fleet": fleet,
        "spot": spot,
        "model": model,
        "load_unit": load_unit,
        "routers": routers,
        "seeds": seeds,
        "objectives": tables.objectives_in_words(goals, traffic.classes),
    }
    if common.json:
        print_json(tables.document(result, facts))
    else:
        _print(result, traffic, place, facts)
    if plot is not None:
        _draw(result, plot, list(policy or ()), goals.of(traffic.classes[0]).ttft_s)


def _print(result: Comparison, traffic: Trace, fleet: Fleet, facts: dict[str, object]) -> None:
    dropped = f", {traffic.dropped} failed ones dropped" if traffic.dropped else ""
    console.print(
        f"{facts['trace']}: {len(traffic)} requests over {traffic.duration:.0f} s, {traffic.rate:.3g}/s{dropped}",
        highlight=False,
    )
    limit = facts["capacity_rps"]
    if isinstance(limit, float):
        console.print(
            f"fleet: {len(fleet.replicas)} replicas, at most {limit:.3g} such requests/s; the trace asks for {traffic.rate / limit:.0%}",
            highlight=False,
        )
    console.print(f"objectives: {facts['objectives']}\n", highlight=False)
    for load in result.loads:
        console.print(tables.at_one_load(result, load, f"load {load:g}", console.width))
        console.print()
    if len(result.loads) > 1:
        console.print(tables.over_all_loads(result))
        console.print()
    for note in tables.notes(result):
        console.print(note, highlight=False)


def _draw(result: Comparison, file: Path, given: list[str], slo_s: float | None) -> None:
    from autopoiesis.simulator import plots

    names = [name for name in result.policies if any(name in {item, Path(item).stem} for item in given)]
    figure = plots.overview(result, highlight=names, slo_s=slo_s)
    try:
        figure.savefig(file, dpi=150)
    except (OSError, ValueError) as error:
        raise CommandError(f"--plot {file}: {error}") from error
    progress.print(f"picture: {file}")
