"""`autopoiesis load`: open-loop load against any OpenAI URL."""

import asyncio
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from autopoiesis.cli.context import COMMON, Common
from autopoiesis.cli.load import LoadResult, Progress, run_load
from autopoiesis.cli.load import table as latency_table
from autopoiesis.cli.output import console, print_json, progress
from autopoiesis.runtime.settings import SloSettings
from autopoiesis.simulator.workload import Trace, load_trace, scale_load
from autopoiesis.simulator.workload.generate import BATCH, INTERACTIVE, bursts, diurnal, poisson

GENERATORS = {"poisson": poisson, "bursts": bursts, "diurnal": diurnal}


def load(
    *,
    url: Annotated[
        str | None, Parameter(help="Any OpenAI-compatible URL; default the router that runs here.")
    ] = None,
    model: Annotated[str, Parameter(help="Model to ask for.")] = "llama-3.1-8b",
    trace: Annotated[Path | None, Parameter(help="Recorded trace to replay.")] = None,
    failed: Annotated[
        Literal["drop", "keep", "error"], Parameter(help="Rows of the trace that recorded a failed request.")
    ] = "drop",
    generator: Annotated[
        Literal["poisson", "bursts", "diurnal"], Parameter(help="Without a trace.")
    ] = "poisson",
    rate: Annotated[float, Parameter(help="Mean requests per second of the generator.")] = 5.0,
    seconds: Annotated[float, Parameter(help="Seconds of load; of a trace, its first ones.")] = 60.0,
    scale: Annotated[float, Parameter(help="Factor on a trace's load, by adding sessions.")] = 1.0,
    lengths: Annotated[
        Literal["simulate", "pin"],
        Parameter(
            help="How engines learn output lengths: `simulate` for ours, `pin` (ignore_eos) for real ones."
        ),
    ] = "simulate",
    warmup: Annotated[float, Parameter(help="Seconds at the start that are sent but not scored.")] = 0.0,
    timeout: Annotated[float, Parameter(help="Seconds that one request may take.")] = 300.0,
    api_key: Annotated[str, Parameter(help="Bearer token.", env_var="AUTOPOIESIS_LOAD_API_KEY")] = "",
    seed: int = 0,
    common: Common = COMMON,
) -> int:
    """Send requests when they are due, however slow the server is, and measure at the client. Exits 1 if one failed."""
    objectives = common.settings()[SloSettings].objectives
    if trace is not None:
        whole = scale_load(load_trace(trace, failed=failed), scale, seed)
        start = float(whole.arrival[0])
        traffic: Trace = whole.between(start, start + seconds)
    else:
        traffic = GENERATORS[generator](rate, seconds, mix=(INTERACTIVE, BATCH), seed=seed)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bar(*columns, console=progress, transient=True) as bar:
        task = bar.add_task("requests", total=len(traffic))

        def moved(state: Progress) -> None:
            bar.update(
                task, completed=state.ended, description=f"{state.sent} sent, {state.failed} not answered"
            )

        result: LoadResult = asyncio.run(
            run_load(
                common.router_url(url),
                traffic,
                model=model,
                classes=objectives,
                api_key=api_key,
                timeout=timeout,
                progress=moved,
                lengths=lengths,
                seed=seed,
                warmup_s=warmup,
            )
        )
    if common.json:
        print_json(result.to_dict())
    else:
        console.print(latency_table(result))
    return 0 if result.failed == 0 else 1
