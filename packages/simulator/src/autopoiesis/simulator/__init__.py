"""Deterministic simulation of an LLM serving fleet.

What is named here is the stable interface for researchers. It is loaded at first use: the worker's simulated engine lives in
this package too and needs neither NumPy nor Arrow.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autopoiesis.simulator.api import (
        SLO,
        Clients,
        ConservationError,
        Fleet,
        Report,
        Run,
        Trace,
        WorldSettings,
        evaluate,
        evaluate_many,
        evaluate_snapshot,
        load_trace,
    )
    from autopoiesis.simulator.comparison import compare
    from autopoiesis.simulator.ranking import Comparison, Standing
    from autopoiesis.simulator.workload.trace import TraceError

__all__ = [
    "SLO",
    "Clients",
    "Comparison",
    "ConservationError",
    "Fleet",
    "Report",
    "Run",
    "Standing",
    "Trace",
    "TraceError",
    "WorldSettings",
    "compare",
    "evaluate",
    "evaluate_many",
    "evaluate_snapshot",
    "load_trace",
]

_ELSEWHERE = {
    "compare": "comparison",
    "Comparison": "ranking",
    "Standing": "ranking",
    "TraceError": "workload.trace",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ELSEWHERE.get(name, 'api')}"), name)
