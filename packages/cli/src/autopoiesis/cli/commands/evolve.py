"""`autopoiesis evolve`: search a better dispatch policy for recorded traffic on a fleet. Needs no services."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from autopoiesis.cli.context import COMMON, Common
from autopoiesis.cli.output import CommandError, print_json, progress, table
from autopoiesis.cli.whatif import asked, options, tables
from autopoiesis.runtime.settings import SloSettings
from autopoiesis.simulator.api import objectives
from autopoiesis.simulator.extras import figure_class
from autopoiesis.synthesizer.fitness import OBJECTIVES
from autopoiesis.synthesizer.offline import Found, Search
from autopoiesis.synthesizer.offline import evolve as search_for
from autopoiesis.synthesizer.replay import FailedReplayError
from autopoiesis.synthesizer.settings import LlmSettings

SHOWN = 8
"""Candidates in the table."""
WIDTH_OF_FILES = 200


def evolve(
    *,
    trace: options.TraceFile,
    fleet: Annotated[str, Parameter(help="Replicas, for instance '2xH100 + 4xL40S' or '2xH100/tp2'.")],
    folder: Annotated[
        Path, Parameter(help="Keeps everything. A second run there goes on where the first was.")
    ],
    start: Annotated[str, Parameter(help="Policy to beat: a shipped name or a file.")] = "round_robin",
    policy: Annotated[
        list[str] | None, Parameter(help="More seeds: files or shipped names; may repeat.", negative=())
    ] = None,
    shipped: Annotated[
        asked.Shipped, Parameter(help="Shipped policies to breed from: all, the usual rivals, or none.")
    ] = "rivals",
    candidates: Annotated[int, Parameter(help="Policies that are scored, beside the seeds.")] = 200,
    population: Annotated[int, Parameter(help="Candidates per generation.")] = 8,
    islands: Annotated[int, Parameter(help="Populations that breed apart.")] = 1,
    seed: Annotated[int, Parameter(help="The same seed finds the same, as long as no model is asked.")] = 0,
    objective: Annotated[
        Literal["goodput", "first-token", "pace"], Parameter(help="What fitness is, relative to the start.")
    ] = "goodput",
    load: options.Loads = None,
    load_unit: options.Unit = "trace",
    slo: options.Slo = None,
    holdout: Annotated[
        float, Parameter(help="Share of the trace, at its end, that is kept from the search.")
    ] = 0.3,
    arrivals: Annotated[
        int, Parameter(help="Newest requests of the rest that candidates are scored on; 0: all.")
    ] = 3000,
    seconds: options.Seconds = None,
    failed: options.Failed = "drop",
    model: Annotated[str, Parameter(help="Model that the fleet serves: a known name.")] = "Llama-3.1-8B",
    routers: options.Routers = 1,
    llm_url: Annotated[
        str | None,
        Parameter(help="OpenAI-compatible endpoint that writes policies; default: the configured one."),
    ] = None,
    llm_model: Annotated[str | None, Parameter(help="Model's name there.")] = None,
    calls: Annotated[
        int, Parameter(help="Of the language model, repairs of invalid answers included.")
    ] = 100,
    mutator: Annotated[
        bool, Parameter(help="Let the offline mutator write what the language model does not.")
    ] = True,
    jobs: Annotated[int, Parameter(help="Replays at the same time.")] = 1,
    plot: Annotated[
        Path | None, Parameter(help="Also draw fitness over candidates: .png, .svg or .pdf.")
    ] = None,
    common: Common = COMMON,
) -> None:
    """Evolve a dispatch policy on recorded traffic, without services, and compare it on traffic it never saw."""
    if plot is not None:
        figure_class()  # tells at once where the library is missing
    settings = common.settings(LlmSettings, flags={"llm.base_url": llm_url, "llm.model": llm_model})
    llm = settings[LlmSettings]
    if not llm.configured and (llm_url or llm_model or not mutator):
        raise CommandError(
            "a language model needs both --llm-url and --llm-model, or llm.base_url and llm.model"
        )
    traffic = asked.traffic(trace, failed, seconds)
    goals = objectives(asked.goals(slo or ()) or settings[SloSettings].objectives, traffic.classes)
    search = Search(
        candidates=candidates,
        population=population,
        islands=islands,
        seed=seed,
        loads=asked.loads(load) if load else Search().loads,
        load_unit=load_unit,
        objective=OBJECTIVES[objective],
        holdout=holdout,
        arrivals=arrivals,
        calls=calls,
    )
    (first,) = asked.policies([start], "none", option="--start").values()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bar(*columns, console=progress, transient=True) as bar:
        task = bar.add_task("scoring the seeds", total=candidates)
        try:
            found = search_for(
                traffic,
                asked.fleet(fleet, None, None, notice_s=0.0, span_s=traffic.duration, model=model),
                goals,
                search,
                folder=folder,
                start=first,
                seeds=asked.policies(policy or (), shipped) if policy or shipped != "none" else {},
                routers=routers,
                llm=llm if llm.configured else None,
                proposers=None if mutator else (),
                jobs=jobs,
                progress=lambda done, total, best: bar.update(
                    task, completed=done, total=total, description=f"best {best:.3f}"
                ),
            )
        except (ValueError, FailedReplayError) as error:
            raise CommandError(str(error)) from error
    if plot is not None:
        _draw(found, plot)
    if common.json:
        print_json(document(found))
    else:
        _print(found)


def document(found: Found) -> dict[str, object]:
    """What a script wants to know; all candidates are in candidates.csv."""
    return {
        "folder": str(found.folder),
        "winner": found.winner.hash if found.winner else None,
        "fitness": found.winner.fitness if found.winner else None,
        "lineage": [
            {"hash": policy.hash, "origin": policy.origin, "title": policy.title, "fitness": policy.fitness}
            for policy in found.lineage()
        ],
        "candidates": len(found.tried),
        "spent": dict(found.spent),
        "arms": dict(found.arms),
        "holdout": tables.document(found.holdout, {}) if found.holdout else None,
    }


def _print(found: Found) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH_OF_FILES)
    final = {one.policy.hash: one for one in found.tried if one.final}
    best = sorted(final.values(), key=lambda one: -one.policy.fitness)[:SHOWN]
    rows = [
        (f"{one.policy.fitness:.4f}", one.arm, one.generation if one.generation >= 0 else "", one.policy.hash[:12], one.policy.origin, one.policy.title[:90])
        for one in best
    ]  # fmt: skip
    console.print(
        table(
            "best candidates (1: the start)", ("fitness", "arm", "generation", "hash", "origin", "what"), rows
        )
    )
    console.print()
    if found.winner is None:
        console.print("Nothing beats the start on fresh seeds: no winner.", highlight=False)
    elif found.winner.origin in {"library", "operator"}:
        console.print(
            f"winner: {found.winner.title}, a seed; nothing that was written here beats it on fresh seeds",
            highlight=False,
        )
    else:
        console.print(f"winner {found.winner.hash[:12]}, from newest to oldest:", highlight=False)
        for policy in found.lineage():
            console.print(
                f"  {policy.fitness:.4f}  {policy.hash[:12]}  {policy.origin:8} {policy.title[:110]}",
                highlight=False,
            )
    if found.holdout is not None:
        console.print(f"\n[bold]on the {found.holdout.span_s:.0f} s that the search never saw[/bold]")
        console.print(tables.over_all_loads(found.holdout))
        for note in tables.notes(found.holdout):
            console.print(note, highlight=False)
    console.print(
        f"\nkept in {found.folder}: {', '.join(sorted(p.name for p in found.folder.iterdir()))}",
        highlight=False,
    )


def _draw(found: Found, file: Path) -> None:
    from autopoiesis.simulator import plots

    try:
        plots.search(found.rows()).savefig(file, dpi=150)
    except (OSError, ValueError) as error:
        raise CommandError(f"--plot {file}: {error}") from error
    progress.print(f"picture: {file}")
