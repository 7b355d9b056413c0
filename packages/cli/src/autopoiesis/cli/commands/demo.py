"""`autopoiesis demo`: the closed loop on one machine, measured at the client."""

import asyncio
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter

from autopoiesis.cli.context import COMMON, Common
from autopoiesis.cli.demo.report import show, to_dict
from autopoiesis.cli.demo.run import Demo, Outcome
from autopoiesis.cli.demo.scenario import MODEL, Scenario, Stretches, recorded, synthetic
from autopoiesis.cli.installation import Installation, Shape, Worker
from autopoiesis.cli.load import Progress
from autopoiesis.cli.output import console, print_json, progress
from autopoiesis.cli.sections import SECTIONS
from autopoiesis.runtime.settings import Settings


def demo(
    *,
    trace: Annotated[
        Path | None, Parameter(help="Recorded trace to serve instead of generated traffic.")
    ] = None,
    load: Annotated[float, Parameter(help="Mean arrivals over the fleet's capacity.")] = 0.6,
    fleet: Annotated[str | None, Parameter(help="Simulated fleet, for instance '2xH100 + 4xL40S'.")] = None,
    incumbent: Annotated[str, Parameter(help="Shipped policy to start from.")] = "round_robin",
    patience: Annotated[
        float, Parameter(help="Seconds that the loop may take to promote something.")
    ] = 150.0,
    seed: Annotated[int, Parameter(help="Of the traffic.")] = 0,
    keep: Annotated[Path | None, Parameter(help="Keep logs and data in this directory.")] = None,
    common: Common = COMMON,
) -> int:
    """Serve, observe, write, prove, promote, swap, and measure what it was worth; about three minutes (a recorded trace five).

    Exits 1 if nothing was promoted or a request failed.
    """
    chosen = {"fleet": fleet} if fleet else {}
    scenario = (
        recorded(trace, load, seed, Stretches(), **chosen)
        if trace
        else synthetic(load, seed, Stretches(), **chosen)
    )
    progress.print(
        f"{scenario.description}; {scenario.fleet}, {MODEL}; "
        f"{scenario.load:.0%} of {scenario.capacity_rps:.1f} requests/s"
    )
    with ExitStack() as stack:
        directory = keep or Path(tempfile.mkdtemp(prefix="autopoiesis-demo-"))
        if keep is None:
            stack.callback(shutil.rmtree, directory, ignore_errors=True)
        outcome = _run(directory, scenario, incumbent, patience, seed)
    if common.json:
        print_json(to_dict(outcome))
    else:
        show(outcome, console)
    return 0 if outcome.version is not None and outcome.failed == 0 else 1


def _run(directory: Path, scenario: Scenario, incumbent: str, patience: float, seed: int) -> Outcome:
    settings = Settings.load(*SECTIONS, env={}, flags={"scope": f"demo/{MODEL}", "mode": "auto"})
    shape = Shape(workers=_workers(scenario.fleet, seed), service_env=_service_env(scenario, incumbent))
    live = _Live()
    with Installation(
        directory, settings, shape, progress=lambda what: live.say(f"starting {what}")
    ) as installation:
        installation.start()
        demo = Demo(
            installation,
            scenario,
            incumbent=incumbent,
            patience_s=patience,
            tell=live.say,
            progress=live.show,
        )
        return asyncio.run(demo.run())


def _workers(fleet: str, seed: int) -> tuple[Worker, ...]:
    """One worker process per GPU type."""
    parts = [part.strip() for part in fleet.split("+")]
    return tuple(
        Worker(
            node=f"node-{number}", replicas=part, env={"AUTOPOIESIS_WORKER_SEED": str(seed * 100 + number)}
        )
        for number, part in enumerate(parts)
    )


def _service_env(scenario: Scenario, incumbent: str) -> dict[str, dict[str, str]]:
    objectives = {
        "AUTOPOIESIS_SLO_CLASSES": msgspec.json.encode(scenario.objectives.classes).decode(),
        "AUTOPOIESIS_SLO_DEFAULT": scenario.objectives.default,
    }
    return {
        "router": {**objectives, "AUTOPOIESIS_ROUTER_PORT": "0", "AUTOPOIESIS_ROUTER_POLICY": incumbent},
        "worker": {"AUTOPOIESIS_WORKER_MODEL": MODEL},
        "observer": {**objectives, "AUTOPOIESIS_OBSERVER_SNAPSHOT_EVERY_S": "3600"},
        "synthesizer": {**objectives, "AUTOPOIESIS_SYNTHESIZER_CYCLE_S": "20"},
        "evaluator": {**objectives, "AUTOPOIESIS_EVALUATOR_INITIAL": incumbent},
    }


class _Live:
    """Progress on stderr: one line that moves, and lines that stay."""

    def __init__(self) -> None:
        self._moving = False

    def say(self, text: str) -> None:
        self._end()
        progress.print(text)

    def show(self, label: str, state: Progress) -> None:
        if not progress.is_terminal:
            return
        self._moving = True
        failed = f", {state.failed} not answered" if state.failed else ""
        progress.print(
            f"  {label}: {state.elapsed_s:4.0f} s, {state.sent} sent, {state.ended} ended{failed}   ",
            end="\r",
        )

    def _end(self) -> None:
        if self._moving:
            progress.print()
            self._moving = False
