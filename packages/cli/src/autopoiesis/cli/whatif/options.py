"""Options of the commands that replay recorded traffic on a fleet: `whatif`, `evolve`."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from autopoiesis.simulator.api import LoadUnit

TraceFile = Annotated[Path, Parameter(help="Recorded traffic; its format is recognised.")]
Loads = Annotated[
    list[str] | None,
    Parameter(
        help="Loads, for instance 0.8 1.0 1.2; more load is more sessions.",
        consume_multiple=True,
        negative=(),
    ),
]
Unit = Annotated[
    LoadUnit, Parameter(help="What load 1 is: the trace as recorded, or the fleet's capacity for it.")
]
Slo = Annotated[
    list[str] | None,
    Parameter(help="[CLASS:]ttft=2,tpot=100ms; may repeat. Default: the configured objectives.", negative=()),
]
Seconds = Annotated[float | None, Parameter(help="Only the trace's first seconds.")]
Failed = Annotated[Literal["drop", "keep", "error"], Parameter(help="Rows that recorded a failed request.")]
Routers = Annotated[int, Parameter(help="Routers that share the fleet.")]
