"""The recorded trace that the benchmarks beside this file take."""

from __future__ import annotations

import argparse
from pathlib import Path

from autopoiesis.simulator.api import Trace, load_trace
from autopoiesis.simulator.workload import TraceError


def trace_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--trace", type=Path, default=Path("AzureLLMInferenceTrace_conv.csv"))


def recorded(path: Path) -> Trace | None:
    """The trace; none, with a message, where it cannot be read."""
    try:
        return load_trace(path)
    except TraceError as error:
        print(
            f"skipped: {error}. Get the trace from github.com/Azure/AzurePublicDataset and pass it with --trace."
        )
        return None
